"""Every method of the table, and every part that is in none, in layouts of every kind.

A step of two updates through the trainer's own `learn`, whose ratios differ, is that of a float64
trainer that knows no layout: scores, denominators, means, gradients and updates are its own, the
method's parts run there in float64 (tests/reference_parts.py). It also says how far each outcome
moves if scores are wrong by what is allowed them, and by so much more may a layout differ: most
methods hand errors on as they are, and one that decides by less than an error is a fault of the
batch, which is refused.

Networks and batch are small, so that a method costs little; STARE and its kin go through all
layouts, and against formulas that share no code with them, in test_layouts.py.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from megatron_stare.algorithms.needs import DEMONSTRATED, GUIDED, UNMADE
from megatron_stare.algorithms.table import LINKS, METHODS, TERMS
from megatron_stare.config.commands import TrainConfig
from megatron_stare.types import RolloutBatch
from tests.contract import ACTS, OBSERVE, OF_REWARDS, REMEMBER, links_with, method_with_term
from tests.credit_faults import FAULTS
from tests.distributed.test_layouts import LAYOUTS, OPTIM
from tests.layout_steps import (
    SCORE_ERROR,
    Job,
    Layout,
    assert_same_step,
    credit_in_batch_order,
    merge_ranks,
    take_steps,
)
from tests.models import make_hf_folder
from tests.ragged_batches import ragged_batches, with_turns
from tests.reference_parts import PartsInFloat64
from tests.reference_policy import ReferencePolicy
from tests.reference_step import ReferenceTrainer, StepOutcome
from tests.worlds import run_world

pytestmark = pytest.mark.slow

REDUCED = ("dp2", "tp2 sp", "cp2", "pp2")
"""One of each kind."""
SEED = 1
"""Of a batch on which no method hangs on the last bits of a score."""
WORKED = 5
"""A sample that stands for a demonstration, to methods that learn from these."""
CUT_OFF = 2
"""A group of samples that were too long, to methods that tell them apart."""
MOST_SLACK = 1e-3
"""As a share: what moves more, with scores wrong by 1e-5 nats, hangs on their last bits."""


TRAINABLE = [name for name, kind in LINKS.items() if not kind(**ACTS.get(name, {})).needs & UNMADE]
"""A run with a link that reads what no rollout makes yet is refused."""
ONCE = {name: method for name, method in METHODS.items() if "epochs" in method.updates}
"""Methods with updates that the reference knows; the others are in test_updates.py."""


def sections() -> dict[str, dict[str, Any]]:
    """`algorithm` sections, in which every link is the last of a chain, and every term is trained.

    Parts have settings with which they act on a batch as small as this.
    """
    found: dict[str, dict[str, Any]] = {
        name: {"method": name, **{link: ACTS[link] for link in method.links if link in ACTS}}
        for name, method in ONCE.items()
    }
    ends = {list(method.links)[-1] for method in ONCE.values()}
    terms = {name for method in ONCE.values() for name in (*method.policy, *method.terms)}
    rest = [name for name in TRAINABLE if name not in ends]
    found |= {f"link {name}": {"links": links_with(name)} for name in rest}
    found |= {f"term {name}": method_with_term(name) for name in TERMS if name not in terms}
    return found


@pytest.fixture(scope="module")
def jobs(tmp_path_factory) -> dict[str, Job]:
    folder = make_hf_folder(
        *(tmp_path_factory.mktemp("qwen3"), "qwen3"),
        max_shard_size="1GB",
        attention_bias=True,
        num_hidden_layers=2,
    )
    _sharpen(folder)
    settings = {
        "optim": OPTIM,
        "train": {"updates_per_step": 2},
        "rollout": {"prompts_per_step": 4, "max_response_tokens": 63}
        | {"engine": "replay", "replay_path": "unused"},
        "data": {"path": "unused", "max_prompt_tokens": 1, "demonstration_field": "worked"},
    }
    # Turns come with recorded samples alone, as long as no environment says what they earn.
    batch = with_turns(ragged_batches(seed=SEED, shrunk=8)[0])
    found = {}
    for name, section in sections().items():
        job = Job(folder, {**settings, "algorithm": section}, [batch])
        if needs := job.config(Layout()).needs & {DEMONSTRATED, GUIDED}:
            worked = torch.arange(len(batch)) == WORKED
            marked = {"demonstrated": worked, "guiding": worked if GUIDED in needs else None}
            job = job._replace(batches=[replace(batch, **marked)])
        if job.config(Layout()).algorithm.first_drawing.rule is not None:
            job = job._replace(batches=[replace(batch, temperatures=temperatures_of(batch))])
        if "r3" in job.config(Layout()).algorithm.links:
            job = job._replace(batches=[_cut_off(batch)])
        found[name] = job
    return found


def _cut_off(batch: RolloutBatch) -> RolloutBatch:
    """The same with samples that were too long, of which one group has no other."""
    verdicts = batch.verdicts.masked_fill(batch.group_ids == CUT_OFF, 0.0)
    return replace(batch, verdicts=verdicts, truncated=batch.response_lengths > 0)


def temperatures_of(batch: RolloutBatch) -> Tensor:
    """That tokens were drawn at by a rule, but for those of the first sample."""
    generator = torch.Generator().manual_seed(SEED)
    own = 0.9 + 0.2 * torch.rand(len(batch.loss_mask), generator=generator)
    return own.masked_fill(batch.sample_ids == 0, torch.nan)


def _sharpen(folder: Path) -> None:
    """Make the policy sure of some tokens: entropies differ, as those of a trained one do."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] *= 3
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def expected(jobs) -> dict[str, StepOutcome]:
    first = next(iter(jobs.values()))
    config = first.config(Layout())
    policy = ReferencePolicy(first.folder, config)
    # All start from the same weights: one policy is loaded, and its scores are measured once.
    start = ReferenceTrainer(policy, config, PartsInFloat64(config))
    needs = frozenset().union(*(job.config(Layout()).needs for job in jobs.values()))
    plain = start.measure(first.batches[0], needs)
    return {
        name: _trainer(policy, job.config(Layout())).step(
            job.batches[0], plain if job.batches[0].temperatures is None else None
        )
        for name, job in jobs.items()
    }


def _trainer(policy: ReferencePolicy, config: TrainConfig) -> ReferenceTrainer:
    oracle = PartsInFloat64(config)
    return ReferenceTrainer(copy.deepcopy(policy), config, oracle, noise=SCORE_ERROR)


def take(layout: str, jobs: Mapping[str, Job], **options: bool) -> list[dict[str, Any]]:
    small = replace(LAYOUTS[layout], max_tokens=96)
    return run_world(small.processes, partial(take_steps, **options), small, jobs)


def differences(found: Mapping[str, StepOutcome], expected: Mapping[str, StepOutcome]):
    """What each job's comparison says, of those that are not the same."""
    said = {}
    for name, outcome in found.items():
        try:
            assert_same_step(outcome, expected[name])
        except AssertionError as error:
            said[name] = str(error).partition("\n")[0]
    return said


@pytest.fixture(scope="module")
def over_ranks(jobs) -> list[dict[str, Any]]:
    """Two data-parallel ranks, with what they would have made of faults."""
    return take("dp2", jobs, with_faults=True)


def merged(ranks: list[dict[str, Any]]) -> dict[str, StepOutcome]:
    return {name: merge_ranks([rank[name] for rank in ranks])[0] for name in ranks[0]}


def test_no_method_hangs_on_the_last_bits_of_a_score(expected):
    for name, outcome in expected.items():
        moves, credit = outcome.slack.credit, outcome.credit
        assert credit is not None
        assert moves["counted"] == 0, name
        for part in ("advantages", "weights"):
            assert moves[part] <= MOST_SLACK * credit[part].abs().max(), f"{name}: {part}"
        assert outcome.slack.gradient <= MOST_SLACK, name


@pytest.mark.parametrize("layout", REDUCED)
def test_every_method_s_step_is_that_of_the_reference(layout, jobs, expected, request):
    ranks = request.getfixturevalue("over_ranks") if layout == "dp2" else take(layout, jobs)
    assert not differences(merged(ranks), expected)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_any_link_is_found(fault, jobs, expected, over_ranks):
    """In its credit; of links that change none, in their report."""
    found = {}
    for name, outcome in merged(over_ranks).items():
        steps = [rank[name][0] for rank in over_ranks]
        faulty = [step.faulty[fault] for step in steps]
        credit = credit_in_batch_order(
            [step.index for step in steps], [rank.credit for rank in faulty]
        )
        found[name] = replace(outcome, credit=credit, report=faulty[0].report)
    said = differences(found, expected)
    unseen, misplaced = [], []
    for name, job in jobs.items():
        links = job.config(Layout()).algorithm.links
        is_of_samples = all(link.scope == "sample" for link in links.values())
        if fault == "a statistic per rank" and (is_of_samples or list(links)[-1] in OF_REWARDS):
            # What they decide is the same; a mean that they report is of the rank's own tokens.
            misplaced += [name] * (not said.get(name, "report").startswith("report"))
        elif name not in said:
            # Three steps of the contract find what takes more than one.
            unseen += [name] * (fault != "a statistic per rank" or list(links)[-1] not in REMEMBER)
        elif fault != "a statistic per rank" and (
            said[name].startswith("report") != (list(links)[-1] in OBSERVE)
        ):
            misplaced.append(f"{name}: {said[name]}")
    assert unseen == []
    assert misplaced == []


def test_every_link_is_tried_and_every_term(jobs):
    methods = [job.config(Layout()).algorithm for job in jobs.values()]
    assert {list(method.links)[-1] for method in methods} == {*TRAINABLE}
    assert {name for method in methods for name in (*method.policy, *method.terms)} == {*TERMS}


def test_another_term_is_told_apart(jobs, expected, over_ranks):
    """Whichever stands in its place, the step is another one."""
    found = merged(over_ranks)
    by_term = {next(iter(jobs[name].config(Layout()).algorithm.policy)): name for name in jobs}
    for name in by_term.values():
        others = {term: found[other] for term, other in by_term.items() if other != name}
        assert len(differences(others, dict.fromkeys(others, expected[name]))) == len(others), name
