"""`megatron-stare convert`: Hugging Face folders to Megatron-Core checkpoints and back."""

from __future__ import annotations

import argparse

from megatron_stare.commands.arguments import HF_HELP, ThreadCount, number, path
from megatron_stare.system.values import RankCount


def add_arguments(command: argparse.ArgumentParser) -> None:
    """`convert hf-to-megatron SRC DST` and `convert megatron-to-hf SRC DST`."""
    directions = command.add_subparsers(dest="direction", required=True, metavar="DIRECTION")
    there = _add_direction(
        directions, "hf-to-megatron", "a Hugging Face folder", "a checkpoint to write"
    )
    for option, kind in (("--tp", "tensor"), ("--pp", "pipeline"), ("--ep", "expert")):
        help_text = f"refuse a network that {kind} parallelism of this size does not divide"
        there.add_argument(option, type=number(RankCount), metavar="N", help=help_text)
    back = _add_direction(directions, "megatron-to-hf", "a checkpoint", "a folder to write")
    back.add_argument("--hf", type=path, help=HF_HELP)


def _add_direction(
    directions: argparse._SubParsersAction, name: str, source: str, destination: str
) -> argparse.ArgumentParser:
    command = directions.add_parser(
        name,
        help=f"{source} becomes {destination.removesuffix(' to write')}",
        epilog="A checkpoint has no layout: any TP, PP, CP, EP and DP loads it. A conversion that "
        "was stopped goes on when it is run again.",
    )
    command.add_argument("source", type=path, metavar="SRC", help=source)
    command.add_argument("destination", type=path, metavar="DST", help=destination)
    command.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="store the weights in it (default: as they are)",
    )
    command.add_argument(
        "--threads",
        type=number(ThreadCount),
        help="parameters at a time (default: CPUs, 8 at most)",
    )
    command.add_argument("--force", action="store_true", help="replace DST")
    command.add_argument("--dry-run", action="store_true", help="list what maps to what")
    command.set_defaults(run=_convert, hf=None, tp=1, pp=1, ep=1)
    return command


def _convert(arguments: argparse.Namespace) -> int:
    from megatron_stare.checkpoint.folders import check_undamaged
    from megatron_stare.config.policy import ParallelConfig
    from megatron_stare.weights import convert

    check_undamaged(arguments.source)
    tp, pp, ep = arguments.tp, arguments.pp, arguments.ep
    directions = {
        "hf-to-megatron": convert.hf_to_megatron,
        "megatron-to-hf": convert.megatron_to_hf,
    }
    directions[arguments.direction](
        convert.ConvertOptions(
            source=arguments.source,
            destination=arguments.destination,
            hf=arguments.hf,
            layout=ParallelConfig(tensor=tp, sequence=tp > 1, pipeline=pp, expert=ep),
            dtype=arguments.dtype,
            threads=arguments.threads,
            force=arguments.force,
            dry_run=arguments.dry_run,
        )
    )
    return 0
