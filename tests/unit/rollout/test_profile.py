"""Which states vary, and that a profile goes on where it was."""

from __future__ import annotations

import pytest

from megatron_stare.config.pivots import PivotsSection
from megatron_stare.rollout.profile import KINDS, kind_of, profile
from tests.unit.rollout.problems import make_prompt, make_sample


def test_golden_filter_of_turns():
    """The rule of PivotRL with a mean below 0.75."""
    local_rollout_success = {
        "always_right": [1, 1, 1, 1, 1, 1, 1, 1],
        "kept": [1, 0, 1, 0, 0, 0, 1, 0],
        "never_right": [0, 0, 0, 0, 0, 0, 0, 0],
        "too_easy": [1, 1, 1, 1, 1, 1, 1, 0],
    }
    for kind, verdicts in local_rollout_success.items():
        assert kind_of(verdicts, 0.75) == kind


@pytest.mark.parametrize(
    ("verdicts", "kind"),
    [
        ([], "unjudged"),
        ([1.0], "unjudged"),
        ([0.5, 0.5], "alike"),
        ([1.0, 0.5, 0.0, 1.0], "kept"),
        ([1, 1, 1, 0], "too_easy"),  # 0.75 is not below 0.75
    ],
)
def test_verdicts_that_are_few_or_partial(verdicts, kind):
    assert kind_of(verdicts, 0.75) == kind
    assert kind in KINDS


class Policy:
    """Answers `yes` to states before m in the alphabet at their first sample; nothing else."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def generate(self, requests, sampling, *, seed):
        for request in requests:
            self.asked.append(request.prompt.text)
            is_right = request.prompt.text < "m" and request.index == 0
            yield make_sample(request.prompt, request.index, "yes" if is_right else "no")


class Rollouts:
    """An engine, and the verifiers of the tests."""

    def __init__(self, scorer) -> None:
        self.player, self.scorer = Policy(), scorer


def test_a_profile_is_of_batches_and_what_is_recorded_is_not_sampled_again(scorer):
    states = [make_prompt(text) for text in ("a", "z", "b", "y", "c")]
    section = PivotsSection(
        max_mean=0.75, samples_per_state=2, max_batch_sequences=4, max_response_tokens=9
    )

    def run(records):
        rollouts, saved, progress = Rollouts(scorer), [], []
        verdicts = profile(
            *(rollouts, states, section),  # type: ignore[arg-type]
            seed=1,
            records=records,
            save=saved.append,
            on_progress=progress.append,
        )
        assert sum(progress) == 2 * len(states)
        return verdicts, saved, rollouts.player.asked

    verdicts, saved, asked = run([])
    assert verdicts == [[1, 0], [0, 0], [1, 0], [0, 0], [1, 0]]
    assert (len(saved), len(asked)) == (3, 10)
    assert run(saved[:2]) == (verdicts, saved[2:], ["c", "c"])
    assert run(saved) == (verdicts, [], [])
