"""The command that needs no GPU: `megatron-stare plan`."""

from __future__ import annotations

import argparse
import json

from megatron_stare.commands.arguments import number, path
from megatron_stare.config.loops import LOOPS
from megatron_stare.config_io import load_one_of
from megatron_stare.plan.hardware import GPUS, Assumptions, read_assumptions
from megatron_stare.system.values import RankCount


def add_arguments(command: argparse.ArgumentParser) -> None:
    """`plan CONFIG [--gpus N] [--gpu NAME] [--search] [--json]`."""
    command.epilog = _assumption_table()
    command.add_argument("config", type=path, help="YAML file of differences from the defaults")
    command.add_argument("overrides", nargs="*", metavar="section.key=value", help="overrides")
    command.add_argument("--gpu", choices=GPUS, default="h100-80", help="kind (default: h100-80)")
    command.add_argument(
        "--gpus",
        type=number(RankCount),
        help="in all (default: one replica of the policy, and as many servers)",
    )
    command.add_argument(
        "--rollout-gpus", type=number(RankCount), help="of them, for SGLang servers (default: half)"
    )
    command.add_argument(
        "--server-gpus",
        type=number(RankCount),
        help="of a server (default: the fewest that hold the weights twice)",
    )
    command.add_argument("--search", action="store_true", help="rank the layouts that fit")
    command.add_argument("--json", action="store_true", help="print it for programs")
    command.add_argument(
        "--assume",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="replace an assumption of those below",
    )
    command.set_defaults(run=_plan)


def _plan(arguments: argparse.Namespace) -> int:
    config = load_one_of(LOOPS, arguments.config, arguments.overrides)
    assumptions = read_assumptions(arguments.assume)
    from megatron_stare.plan.job import needs_servers, open_job
    from megatron_stare.plan.plain import candidates_as_plain, plan_as_plain
    from megatron_stare.plan.plan import check_fits, make_plan
    from megatron_stare.plan.report import plan_report, search_report
    from megatron_stare.plan.search import search

    sides = 2 if needs_servers(config) else 1
    job = open_job(
        config,
        GPUS[arguments.gpu],
        num_gpus=arguments.gpus or sides * config.parallel.replica,
        num_generators=arguments.rollout_gpus,
        server_gpus=arguments.server_gpus,
        assumptions=assumptions,
    )
    if arguments.search:
        found = search(job)
        print(_as_json(candidates_as_plain(found)) if arguments.json else search_report(found))
        return 0
    plan = make_plan(job)
    print(_as_json(plan_as_plain(plan)) if arguments.json else plan_report(plan))
    check_fits(plan)
    return 0


def _as_json(found: object) -> str:
    return json.dumps(found, indent=2)


def _assumption_table() -> str:
    rows = [
        f"  {name} = {field.get_default()}\n      {(field.description or '').strip()}"
        for name, field in Assumptions.model_fields.items()
    ]
    return "\n".join(["assumptions:", *rows])
