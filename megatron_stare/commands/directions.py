"""`megatron-stare directions`: prompts that say what to trade for what, and what is kept."""

from __future__ import annotations

import argparse
from typing import Annotated

from pydantic import Field

from megatron_stare.commands.arguments import number, path
from megatron_stare.system.values import Count

Degrees = Annotated[float, Field(ge=0, le=180)]


def add_arguments(command: argparse.ArgumentParser) -> None:
    """`directions write PROMPTS OUT` and `directions keep CANDIDATES OUT`."""
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_write(actions)
    keep = actions.add_parser("keep", help="the best candidate of every prompt, and the worst")
    keep.add_argument("source", type=path, metavar="CANDIDATES", help=".jsonl or .parquet")
    keep.add_argument("destination", type=path, metavar="OUT", help="examples and pairs to write")
    keep.set_defaults(run=_keep)


def _add_write(actions: argparse._SubParsersAction) -> None:
    write = actions.add_parser("write", help="every prompt with directions in it")
    write.add_argument("source", type=path, metavar="PROMPTS", help=".jsonl or .parquet")
    write.add_argument("destination", type=path, metavar="OUT", help="prompts to write")
    write.add_argument(
        "--objectives", required=True, metavar="NAME,NAME", help="of the rewards, in their order"
    )
    write.add_argument(
        "--degrees",
        type=number(Degrees),
        default=45.0,
        help="largest angle to the first objective (default: 45)",
    )
    write.add_argument(
        "--count", type=number(Count), default=1, help="directions of a prompt (default: 1)"
    )
    write.add_argument("--seed", type=int, default=1, help="of the directions (default: 1)")
    write.add_argument(
        "--template",
        help="text with {rating}; with {prompt} the whole prompt, else a system message",
    )
    write.add_argument("--prompt-field", default="prompt", help="field (default: prompt)")
    write.set_defaults(run=_write)


def _write(arguments: argparse.Namespace) -> int:
    from megatron_stare.data.directions import TEMPLATE, Arc, write_directions
    from megatron_stare.errors import UserError

    objectives = [name.strip() for name in arguments.objectives.split(",")]
    if len(objectives) < 2 or len({*objectives, ""}) <= len(objectives):
        raise UserError(
            f"--objectives: expected two names or more that differ, found {arguments.objectives!r}"
        )
    template = TEMPLATE if arguments.template is None else arguments.template
    if "{rating}" not in template:
        raise UserError(f"--template: expected a text with {{rating}}, found {template!r:.80}")
    report = write_directions(
        arguments.source,
        arguments.destination,
        Arc(objectives, arguments.degrees),
        template=template,
        prompt_field=arguments.prompt_field,
        count=arguments.count,
        seed=arguments.seed,
    )
    print(report)
    return 0


def _keep(arguments: argparse.Namespace) -> int:
    from megatron_stare.data.directions import keep_best

    print(keep_best(arguments.source, arguments.destination))
    return 0
