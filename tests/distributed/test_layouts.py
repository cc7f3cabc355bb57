"""Every layout takes the same STARE steps as a float64 trainer that knows no layout.

Three steps in a row, from the same weights on the same ragged batches, through the trainer's own
`learn`, for every family with tied and untied embeddings and a vocabulary of 259; of one or two KV
heads, tensor-parallel ranks hold parts. Decisions are exactly those of the reference: L+ and L-
token by token, the gate, w and m. Numbers agree to the errors named in tests/layout_steps.py.

Exact selection is compared where it is defined. Log-probs of one token differ between layouts in
their last bits, so two tokens whose surprisals are as close as that have no order in float32. Where
the policy ranks, the reference therefore checks that the last token selected and the first one left
out are further apart than twice the error allowed; where the engine's log-probs rank, the two tie
exactly in every step, and token ids decide. Likewise no token's ratio of policy to engine is within
twice that error of a bound of the correction, which drops tokens in one setting and truncates
the ratios of whole samples in another.

What this does not show: that gradients of one layout equal another's bit by bit (sums have another
order), nor anything of bfloat16 or of GPUs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from pydantic import ValidationError

from megatron_stare.errors import UserError
from megatron_stare.launch.topology import check_world_size
from megatron_stare.types import RolloutBatch
from megatron_stare.weights.hf_config import read_hf_config
from tests.layout_steps import (
    SCORE_ERROR,
    Job,
    Layout,
    assert_same_step,
    merge_ranks,
    take_steps,
)
from tests.models import NETWORKS, make_hf_folder
from tests.ragged_batches import permuted, ragged_batches
from tests.reference_formulas import HandWritten
from tests.reference_policy import ReferencePolicy
from tests.reference_step import ReferenceTrainer, StepOutcome
from tests.worlds import run_world

_TP2, _TP4, _PP2, _PP4 = {"tensor": 2}, {"tensor": 4}, {"pipeline": 2}, {"pipeline": 4}
_CP2, _CP4, _SP = {"context": 2}, {"context": 4}, {"sequence": True}
_EP2 = {"expert": 2}
_VPP2 = _PP2 | {"virtual_pipeline": 2}
LAYOUTS = {
    "one process": Layout(),
    "one micro-batch": Layout(max_tokens=4096),
    "selective recompute": Layout(max_tokens=700, recompute="selective"),
    "full recompute": Layout(recompute="full"),
    "dp2": Layout(2, max_tokens=512),
    "tp2": Layout(2, _TP2),
    "tp2 sp": Layout(2, _TP2 | _SP, max_tokens=700),
    "pp2": Layout(2, _PP2),
    "cp2": Layout(2, _CP2, max_tokens=600),
    "pp2 vpp2": Layout(2, _VPP2, max_tokens=512),
    "dp2 ep2": Layout(2, _EP2, max_tokens=512),
    "tp2 sp ep2": Layout(2, _TP2 | _SP | _EP2, max_tokens=600, recompute="full"),
    "dp4 ep2": Layout(4, _EP2, recompute="selective"),
    "tp2 sp dp2 ep4": Layout(4, _TP2 | _SP | {"expert": 4}, max_tokens=512),
    "pp2 cp2 ep2": Layout(4, _PP2 | _CP2 | _EP2),
    "tp4 sp": Layout(4, _TP4 | _SP, max_tokens=4096),
    "pp4": Layout(4, _PP4, max_tokens=600),
    "dp4": Layout(4, max_tokens=400),
    "tp2 dp2": Layout(4, _TP2, max_tokens=512),
    "pp2 dp2": Layout(4, _PP2, max_tokens=450, recompute="selective"),
    "tp2 sp pp2": Layout(4, _TP2 | _SP | _PP2, recompute="full"),
    "cp4": Layout(4, _CP4, max_tokens=512, recompute="full"),
    "cp2 dp2": Layout(4, _CP2, max_tokens=450),
    "tp2 sp cp2": Layout(4, _TP2 | _SP | _CP2, recompute="selective"),
    "pp2 cp2": Layout(4, _PP2 | _CP2),
    "pp2 vpp2 dp2": Layout(4, _VPP2, max_tokens=450, recompute="full"),
    "dp8": Layout(8, max_tokens=400),
    "tp2 sp pp2 dp2": Layout(8, _TP2 | _SP | _PP2, max_tokens=1000),
    "tp2 pp2 cp2": Layout(8, _TP2 | _PP2 | _CP2, max_tokens=600),
    "tp4 sp cp2": Layout(8, _TP4 | _SP | _CP2, max_tokens=600, recompute="selective"),
    "tp2 sp pp2 vpp2 cp2": Layout(8, _TP2 | _SP | _VPP2 | _CP2, recompute="full"),
}
QUICK = ("one process", "dp2", "tp2 sp", "pp2")

OPTIM = {"lr": 1e-3, "weight_decay": 0.1, "eps": 1e-4, "clip_grad": 0.5}
ADAPTIVE = {"adaptive": True, "alpha": 0.05, "w": 1.2, "m": 0.8}
POLICY_RANKS = {
    "optim": OPTIM,
    "algorithm": {"stare": ADAPTIVE | {"variant": "C2", "target_entropy": 10.0}},
}
GRPO = {
    "optim": OPTIM,
    "algorithm": {"method": "grpo", "terms": [{"entropy": {"coef": 0.3}}]},
}
ENGINE_RANKS = {
    "optim": OPTIM,
    "algorithm": {
        "aggregation": "seq-mean-token-mean",
        "links": [
            "grpo",
            {"stare": ADAPTIVE | {"surprisal": "rollout", "target_entropy": 5.675}},
            {"icepop": {"low": 0.4, "high": 2.5}},
        ],
    },
}
TWO_UPDATES = {
    "optim": OPTIM,
    "train": {"updates_per_step": 2},
    "algorithm": {
        "links": [
            "grpo",
            {"stare": ADAPTIVE | {"variant": "C2", "target_entropy": 10.0}},
            {"tis": {"level": "geometric", "low": 0.8, "high": 1.15}},
        ],
        "terms": [{"entropy": {"coef": 0.05}}],
    },
}
SETTINGS = {
    "qwen2": TWO_UPDATES,
    "qwen2 tied": POLICY_RANKS,
    "qwen3": ENGINE_RANKS,
    "qwen3 tied": GRPO,
    "llama": TWO_UPDATES,
    "llama tied": ENGINE_RANKS,
    "qwen3_moe": POLICY_RANKS,
    "qwen3_moe tied": TWO_UPDATES,
}
HALVES = (
    ("qwen2 tied", "qwen3", "llama", "qwen3_moe"),
    ("qwen2", "qwen3 tied", "llama tied", "qwen3_moe tied"),
)
QUARTERS = tuple(half[start : start + 2] for start in (0, 2) for half in HALVES)
WHOLE = ("one process", "pp2 vpp2")
MOE = ("qwen3_moe", "qwen3_moe tied")
MOST_LAYERS = 4


def networks_of(name: str) -> Sequence[str]:
    """Where `WHOLE`, all; else every family and setting, half and half, of 8 by quarters.

    Experts are split in networks that have them, and want sequence next to tensor parallelism.
    """
    layout = LAYOUTS[name]
    if "expert" in layout.parallel:
        return MOE
    parts = QUARTERS if layout.processes > 4 else HALVES
    networks = [*SETTINGS] if name in WHOLE else parts[[*LAYOUTS].index(name) % len(parts)]
    is_tensor_alone = "tensor" in layout.parallel and "sequence" not in layout.parallel
    return [n for n in networks if not (is_tensor_alone and n in MOE)]


FEWEST_LAYERS = {"qwen3 tied": 4}
"""Where it is not two: with fewer a last token selected is as surprising as the next."""


def num_layers_in(layout: Layout, network: str) -> int:
    """One a pipeline chunk, and two where that is one: more of the same show nothing more."""
    chunks = layout.parallel.get("pipeline", 1) * layout.parallel.get("virtual_pipeline", 1)
    return max(FEWEST_LAYERS.get(network, 2), chunks)


@pytest.fixture(scope="module")
def job_of(tmp_path_factory) -> Callable[[str, int], Job]:
    """By name of the network and number of layers."""
    root, batches = tmp_path_factory.mktemp("models"), ragged_batches(seed=0)

    @cache
    def make(name: str, num_layers: int) -> Job:
        folder = root / f"{name.replace(' ', '_')}_{num_layers}"
        network = NETWORKS[name] | {"num_hidden_layers": num_layers}
        make_hf_folder(folder, max_shard_size="1GB", **network)
        return Job(folder, SETTINGS[name], batches)

    return make


@pytest.fixture(scope="module")
def expected_of(job_of) -> Callable[[str, int], list[StepOutcome]]:
    """By name of the network and number of layers."""
    return cache(lambda *network: _reference_steps(job_of(*network)))


def _reference_steps(job: Job) -> list[StepOutcome]:
    config = job.config(Layout())
    formulas = HandWritten(config.algorithm)
    trainer = ReferenceTrainer(ReferencePolicy(job.folder, config), config, formulas)
    steps = [trainer.step(batch) for batch in job.batches]
    if job.settings is ENGINE_RANKS:
        assert formulas.smallest_gap == 0
    else:
        assert formulas.smallest_gap > 2 * SCORE_ERROR
    assert formulas.smallest_margin > 2 * SCORE_ERROR
    if formulas.band is not None:
        assert min(formulas.num_below, formulas.num_above) > 20
    return steps


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow, id=name)
        for name in LAYOUTS
    ],
)
def test_three_steps_are_those_of_the_reference(name, job_of, expected_of):
    assert_reference_steps(LAYOUTS[name], networks_of(name), job_of, expected_of)


def assert_reference_steps(layout, networks, job_of, expected_of) -> None:
    num_layers = {network: num_layers_in(layout, network) for network in networks}
    jobs = {network: job_of(network, layers) for network, layers in num_layers.items()}
    ranks = run_world(layout.processes, take_steps, layout, jobs)
    for network, layers in num_layers.items():
        found = merge_ranks([rank[network] for rank in ranks])
        for step, expected_step in zip(found, expected_of(network, layers), strict=True):
            assert_same_step(step, expected_step)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(24))
def test_layouts_drawn_at_random_take_them_too(seed, job_of, expected_of):
    """Whatever the program does not refuse, of up to 8 processes."""
    rng = random.Random(seed)
    network = rng.choice([*SETTINGS])
    layout = _drawn(rng, job_of(network, MOST_LAYERS))
    assert_reference_steps(layout, [network], job_of, expected_of)


def _drawn(rng: random.Random, job: Job) -> Layout:
    while True:
        parallel = {
            **{key: rng.choice([1, 2, 4]) for key in ("tensor", "pipeline", "context", "expert")},
            **{"virtual_pipeline": rng.choice([1, 2]), "sequence": rng.choice([False, True])},
        }
        layout = Layout(
            rng.choice([4, 5, 6, 8]),
            parallel,
            max_tokens=rng.choice([400, 401, 512, 777, 1000, 4096]),
            recompute=rng.choice(["none", "selective", "full"]),
        )
        if _is_allowed(layout, job):
            return layout


def _is_allowed(layout: Layout, job: Job) -> bool:
    try:
        config = job.config(layout)
        read_hf_config(job.folder).check_parallel(config.parallel)
        check_world_size(layout.processes, config.parallel)
    except (UserError, ValidationError):
        return False
    return True


@pytest.mark.parametrize("layout", ["dp2", "tp2 sp"])
def test_the_order_of_samples_changes_nothing(layout, job_of, expected_of):
    """Where nothing ties: among exact ties, the order of samples is what decides."""
    network = "qwen2 tied", num_layers_in(LAYOUTS[layout], "qwen2 tied")
    job, expected = job_of(*network), expected_of(*network)
    shuffled = [permuted(batch, _shuffled(batch, seed)) for seed, batch in enumerate(job.batches)]
    batches, sources = zip(*shuffled, strict=True)
    ranks = run_world(
        LAYOUTS[layout].processes,
        take_steps,
        LAYOUTS[layout],
        {"permuted": job._replace(batches=batches)},
    )
    found = merge_ranks([rank["permuted"] for rank in ranks])
    for step, source, expected_step in zip(found, sources, expected, strict=True):
        assert_same_step(_in_original_order(step, source), expected_step)


def _shuffled(batch: RolloutBatch, seed: int) -> list[int]:
    return random.Random(seed).sample(range(len(batch)), len(batch))


def _in_original_order(step: StepOutcome, source: torch.Tensor) -> StepOutcome:
    """`source` is where each token stood before the permutation."""
    assert step.ranked is not None
    return replace(
        step,
        logprobs=torch.empty_like(step.logprobs).index_copy(0, source, step.logprobs),
        entropies=torch.empty_like(step.entropies).index_copy(0, source, step.entropies),
        ranked=step.ranked._replace(
            positive=source[step.ranked.positive].sort().values,
            negative=source[step.ranked.negative].sort().values,
        ),
    )
