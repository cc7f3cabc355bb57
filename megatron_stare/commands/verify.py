"""`megatron-stare verify`: are two models the same, tensor by tensor and token by token?"""

from __future__ import annotations

import argparse

from megatron_stare.commands.arguments import HF_HELP, Tolerance, number, path


def add_arguments(command: argparse.ArgumentParser) -> None:
    """`verify A B`."""
    command.add_argument("a", type=path, metavar="A")
    command.add_argument("b", type=path, metavar="B")
    command.add_argument("--hf", type=path, help=HF_HELP)
    command.add_argument("--tokens", type=path, help="JSON list of lists of ids (default: random)")
    command.add_argument("--tensors-only", action="store_true", help="no log-probs, little memory")
    command.add_argument(
        "--tolerance",
        type=number(Tolerance),
        default=0.0,
        help="of a tensor, relative (default: no bit)",
    )
    command.add_argument(
        "--logprob-atol",
        type=number(Tolerance),
        default=1e-3,
        help="of a token, nats (default: 0.001)",
    )
    command.set_defaults(run=_verify)


def _verify(arguments: argparse.Namespace) -> int:
    from megatron_stare.checkpoint.folders import check_undamaged
    from megatron_stare.policy.verify import VerifyOptions, verify

    for folder in (arguments.a, arguments.b):
        check_undamaged(folder)
    is_same = verify(
        VerifyOptions(
            a=arguments.a,
            b=arguments.b,
            hf=arguments.hf,
            tokens=arguments.tokens,
            tensors_only=arguments.tensors_only,
            tolerance=arguments.tolerance,
            logprob_atol=arguments.logprob_atol,
        )
    )
    return 0 if is_same else 1
