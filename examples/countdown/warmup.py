"""Whether a warm-up got through: one that did not is no start to compare methods from.

    python -m examples.countdown.warmup RUN [RUN ...]

In some seeds the loss stays for hundreds of steps where a policy knows the habit of the
demonstrations, and nothing of the target; then it falls within a few dozen. Runs from a warm-up
that has not fallen yet tell about that, and not about methods.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from megatron_stare.errors import UserError
from megatron_stare.observe.history import read_metrics

LARGEST_LOSS = 0.65
"""Nats a token over the last tenth of the steps."""


class FailedWarmUp(UserError):
    """A warm-up that did not get through."""


def check_warmup(run: Path) -> float:
    """The loss of the run's last tenth, in nats a token.

    Raises:
        FailedWarmUp: it is not below `LARGEST_LOSS`.
        UserError: there is none.
    """
    history = read_metrics(run)
    if "sft/loss" not in history:
        raise UserError(f"{run}: expected a run of `megatron-stare sft`, found no sft/loss in it")
    losses = history["sft/loss"].values
    loss = float(losses[-max(len(losses) // 10, 1) :].mean())
    if not loss < LARGEST_LOSS:
        raise FailedWarmUp(
            f"{run}: the warm-up failed: its loss is {loss:.3f} nats a token over the last tenth "
            f"of {len(losses)} steps, expected less than {LARGEST_LOSS}; take another seed"
        )
    return loss


def main() -> int:
    parser = argparse.ArgumentParser(description="Check warm-ups.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    try:
        for run in parser.parse_args().runs:
            print(f"{run}: {check_warmup(run):.3f} nats a token, passed")
    except UserError as error:
        print(f"warmup: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
