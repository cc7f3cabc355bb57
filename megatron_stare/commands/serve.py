"""`megatron-stare serve`: SGLang servers on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_stare.commands.arguments import Port, ServerCount, number, path
from megatron_stare.system.values import RankCount, Seconds


def add_arguments(command: argparse.ArgumentParser) -> None:
    """`serve MODEL [...] [--sglang ARGUMENT ...]`."""
    command.add_argument("model", type=path, help="Hugging Face folder")
    command.add_argument(
        "--servers", type=number(ServerCount), default=1, help="how many (default: 1)"
    )
    command.add_argument(
        "--registry",
        type=path,
        default=Path("runs/servers"),
        help="folder to announce them in, and for their logs (default: runs/servers)",
    )
    command.add_argument("--host", default="127.0.0.1", help="to listen on (default: 127.0.0.1)")
    command.add_argument(
        "--port", type=number(Port), default=0, help="of the first; 0 takes free ones"
    )
    command.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    command.add_argument(
        "--tensor", type=number(RankCount), default=1, help="GPUs per server (default: 1)"
    )
    command.add_argument(
        "--python",
        type=path,
        default=Path(".venv-sglang/bin/python"),
        help="of the servers' environment (default: .venv-sglang/bin/python)",
    )
    command.add_argument("--router", action="store_true", help="start sglang-router too")
    command.add_argument(
        "--router-python",
        type=path,
        default=Path(".venv-router/bin/python"),
        help="of the router's environment (default: .venv-router/bin/python)",
    )
    command.add_argument(
        "--api-key-env",
        metavar="VARIABLE",
        help="environment variable with the API key that servers and router shall ask for",
    )
    command.add_argument(
        "--deadline-s", type=number(Seconds), default=600.0, help="seconds to come up"
    )
    command.add_argument(
        "--sglang",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="ARGUMENT",
        help="everything behind it is for SGLang's own launcher",
    )
    command.set_defaults(run=_serve)


def _serve(arguments: argparse.Namespace) -> int:
    from megatron_stare.engines.sglang.serve import ServeOptions, serve
    from megatron_stare.launch.gpus import count_gpus

    serve(
        ServeOptions(
            model=arguments.model,
            python=arguments.python,
            servers=arguments.servers,
            host=arguments.host,
            port=arguments.port,
            registry=arguments.registry,
            dtype=arguments.dtype,
            tensor=arguments.tensor,
            num_gpus=count_gpus(),
            deadline_s=arguments.deadline_s,
            router_python=arguments.router_python if arguments.router else None,
            api_key_env=arguments.api_key_env,
            extra=arguments.sglang,
        )
    )
    return 0
