"""`megatron-stare verify`: are two models the same, tensor by tensor and token by token?"""

from __future__ import annotations

import argparse

from megatron_stare.commands.arguments import HF_HELP, Tolerance, number, path


def add_verify(commands: argparse._SubParsersAction) -> None:
    """`verify A B`."""
    summary = "compare two models, Hugging Face folders or checkpoints: every tensor, and log-probs"
    verify = commands.add_parser("verify", help=summary, description=summary)
    verify.add_argument("a", type=path, metavar="A")
    verify.add_argument("b", type=path, metavar="B")
    verify.add_argument("--hf", type=path, help=HF_HELP)
    verify.add_argument("--tokens", type=path, help="JSON list of lists of ids (default: random)")
    verify.add_argument("--tensors-only", action="store_true", help="no log-probs, little memory")
    verify.add_argument(
        "--tolerance",
        type=number(Tolerance),
        default=0.0,
        help="of a tensor, relative (default: no bit)",
    )
    verify.add_argument(
        "--logprob-atol",
        type=number(Tolerance),
        default=1e-3,
        help="of a token, nats (default: 0.001)",
    )
    verify.set_defaults(run=_verify)


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
