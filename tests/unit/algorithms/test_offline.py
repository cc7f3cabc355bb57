"""Methods on plain lists: the golden numbers of every part, and what a bad sample is told."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from megatron_stare.algorithms.config import AlgorithmConfig
from megatron_stare.algorithms.offline import run_links, run_loss
from megatron_stare.algorithms.table import LINKS, METHODS, TERMS
from tests.unit.algorithms.golden import (
    assert_case,
    assert_ragged,
    case_files,
    method_example,
    stare_reference,
)

Case = dict[str, Any]


def case(algorithm: Any, samples: list[dict[str, Any]], **expected: Any) -> Case:
    return {"algorithm": algorithm, "steps": [{"samples": samples, **expected}]}


def of_rewards(name: str, method: str) -> Case:
    inputs, expected = method_example(name)
    groups = inputs.get("group", [0] * len(inputs["rewards"]))
    samples = [
        {"reward": reward, "group": group, "logprobs": [-1.0, -2.0]}
        for reward, group in zip(inputs["rewards"], groups, strict=True)
    ]
    advantages = [[advantage] * 2 for advantage in expected["adv"]]
    return case(
        method, samples, credit={"advantages": advantages, "weights": [[1.0] * 2] * len(samples)}
    )


def of_mismatch(name: str, key: str, link: Any) -> Case:
    inputs, expected = method_example(name)
    sample = {"logprobs": inputs["old_logp"], "rollout_logprobs": inputs["rollout_logp"]}
    weights = expected[key]
    weights = weights if isinstance(weights, list) else [float(weights)] * 4
    algorithm = {"method": "grpo", "links": ["grpo", link]}
    return case(algorithm, [sample], credit={"weights": [weights]})


def of_clip(name: str, aggregation: str, key: str) -> Case:
    inputs, expected = method_example(name)
    algorithm = {
        "method": "grpo",
        "links": ["quadrants"],  # The advantages are given.
        "aggregation": aggregation,
        "clip": {
            "low": inputs["eps_low"],
            "high": inputs["eps_high"],
            "dual": inputs["dual_clip_c"],
        },
    }
    rows = zip(*(inputs[key] for key in ("old_logp", "logp", "mask", "adv")), strict=True)
    samples = [
        {"logprobs": old, "current_logprobs": new, "mask": mask, "advantages": advantages}
        for old, new, mask, advantages in rows
    ]
    return case(algorithm, samples, losses=expected["token_loss"], loss=expected[key])


def of_decoupled_loss() -> Case:
    inputs, expected = method_example("TIS/decoupled_loss")
    clip = {"low": inputs["eps_low"], "high": inputs["eps_high"], "dual": inputs["c"]}
    keys = ("old_logp", "logp", "rollout_logp", "mask", "adv")
    names = ("logprobs", "current_logprobs", "rollout_logprobs", "mask", "advantages")
    rows = zip(*(inputs[key] for key in keys), strict=True)
    samples = [dict(zip(names, row, strict=True)) for row in rows]
    links = [{"tis": {"high": inputs["C"]}}]
    return case({"links": links, "clip": clip}, samples, loss=expected["loss"])


def of_kl(estimator: str) -> Case:
    inputs, expected = method_example("KL/estimators")
    sample = {"logprobs": inputs["logp"], "reference_logprobs": inputs["ref_logp"]}
    terms = [{"kl": {"coef": 1, "estimator": estimator}}]
    return case({"method": "grpo", "terms": terms}, [sample], losses=[expected[estimator]])


def of_controller(name: str) -> Case:
    """The gate and the adaptive schedule: a step for each entropy."""
    if name == "methods":
        inputs, expected = method_example("STARE/controller")
        trace = expected["trace_H_gate_W_M"]
        given = {"target": "H_tgt", "alpha": "alpha", "w_max": "w_max", "m_min": "m_min"}
        given = {key: inputs[there] for key, there in given.items()}
        given |= {"W": inputs["W0"], "M": inputs["M0"]}
    else:
        given = stare_reference()["controller"]
        trace = [(row["entropy"], row["gate_on"], row["W"], row["M"]) for row in given["trace"]]
    settings = {key: given[key] for key in ("alpha", "w_max", "m_min")}
    settings |= {"target_entropy": given["target"], "w": given["W"], "m": given["M"]}
    settings |= {"adaptive": True, "variant": "C2", "top_share": 0.5}
    steps = []
    for entropy, gate_on, w, m in trace:
        samples = [
            {"logprobs": [-1.0, -2.0], "entropies": [entropy] * 2, "advantages": sign}
            for sign in (1.0, -1.0)
        ]
        weights = [[1.0, w], [1.0, m]] if gate_on else [[1.0, 1.0]] * 2
        steps.append({"samples": samples, "credit": {"weights": weights}})
    return {"algorithm": {"links": [{"stare": settings}]}, "steps": steps}


def golden_cases() -> Iterator[tuple[str, Case]]:
    for path in case_files():
        yield path.stem if path.stem != "golden" else path.parent.name, json.loads(path.read_text())
    yield "grpo", of_rewards("GRPO/advantage", "grpo")
    yield "dr_grpo", of_rewards("Dr.GRPO/advantage", "dr_grpo")
    yield "rloo", of_rewards("RLOO", "rloo")
    wide = {"icepop": {"low": 0, "high": 1e9}}
    yield "icepop-wide", of_mismatch("TIS/token", "ratio", wide)
    yield "tis", of_mismatch("TIS/token", "w_verl", "tis")
    floor = {"tis": {"low": 0.5, "high": 5}}
    yield "tis-floor", of_mismatch("TIS/token", "w_openrlhf", floor)
    yield "tis-sequence", of_mismatch("TIS/sequence", "w", {"tis": {"level": "sequence"}})
    yield "tis-geometric", of_mismatch("TIS/sequence", "geo_mean", {"tis": {"level": "geometric"}})
    yield "icepop", of_mismatch("IcePop", "w", "icepop")
    yield "mis", of_mismatch("MIS/token_mask_and_veto", "keep", "mis")
    whole = {"mis": {"level": "geometric", "high": 5}}
    yield "mis-geometric", of_mismatch("MIS/seq-mask-tis", "keep_seq", whole)
    yield "decoupled", of_decoupled_loss()
    for mean in ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean"):
        yield f"dual-clip-{mean}", of_clip("GRPO/clipped_loss", mean, mean)
    yield "clip-higher", of_clip("DAPO/clip_higher_loss", "token-mean", "token_mean")
    for estimator in ("k1", "k2", "k3"):
        yield estimator, of_kl(estimator)
    yield "controller", of_controller("methods")
    yield "controller-authors", of_controller("authors")


CASES = dict(golden_cases())


@pytest.mark.parametrize("name", CASES)
def test_golden_cases(name):
    assert_case(CASES[name])


def test_every_part_of_the_table_has_a_golden_case():
    used: set[str] = set()
    for one in CASES.values():
        given = one["algorithm"]
        section = {"method": given} if isinstance(given, str) else given
        method = AlgorithmConfig.model_validate(section)
        used |= {*method.links, *method.policy, *method.terms}
    assert {*LINKS, *TERMS} <= used, "add a file to tests/golden/cases"


@pytest.mark.parametrize("golden", stare_reference()["cases"], ids=lambda c: c["variant"])
def test_stare_weighs_and_learns_as_the_authors_program(golden):
    """It ranks by the log-probs that it is given, here those of the policy that learns."""
    lengths = golden["lengths"]
    rows = {
        key: [row[:length] for row, length in zip(golden[key], lengths, strict=True)]
        for key in ("log_prob", "old_log_prob", "weights", "grad")
    }
    settings = {"variant": golden["variant"], "top_share": golden["top_p_ratio"]}
    algorithm = {
        "links": [{"stare": settings | {"w": golden["W"], "m": golden["M"]}}],
        "clip": {"low": golden["clip_low"], "high": golden["clip_high"], "dual": golden["clip_c"]},
    }
    ranked = [
        {"logprobs": row, "advantages": advantage}
        for row, advantage in zip(rows["log_prob"], golden["advantages"], strict=True)
    ]
    credit, _ = run_links(algorithm, ranked)
    assert credit["weights"] == rows["weights"]
    learning = [
        {"logprobs": old, "current_logprobs": new}
        for old, new in zip(rows["old_log_prob"], rows["log_prob"], strict=True)
    ]
    outcome = run_loss(algorithm, learning, credit)
    assert outcome.loss == pytest.approx(golden["loss"], rel=1e-6)
    assert_ragged(outcome.gradients, rows["grad"])


@pytest.mark.parametrize("variant", ["O1", "C2"])
@pytest.mark.parametrize("gate_on", [True, False])
def test_golden_weights_of_stare_and_its_gate(variant, gate_on):
    inputs, expected = method_example(f"STARE/{variant}")
    settings = {"variant": variant, "top_share": inputs["P"], "w": inputs["W"], "m": inputs["M"]}
    entropy = 0.2 if gate_on else 0.4
    samples = [
        {"logprobs": row, "entropies": [entropy] * 5, "mask": mask, "advantages": advantages}
        for row, mask, advantages in zip(inputs["logp"], inputs["mask"], inputs["adv"], strict=True)
    ]
    credit, states = run_links([{"stare": settings}], samples)
    assert credit["weights"] == (expected["omega"] if gate_on else [[1.0] * 5] * 2)
    assert states["stare"]["gate_on"] is gate_on


@pytest.mark.parametrize(
    ("links", "clips"),
    [
        (["grpo"], (0.2, 0.28)),
        (["grpo", {"quadrants": {}}], (0.2, 0.28)),
        ([{"kl_cov": {"share": 0.5}}], (1.0, 1e6)),
        ([{"hapo": {}}], (0.2, 0.2)),
        (["reinforce_plus_plus"], (0.2, 0.2)),
    ],
)
def test_links_alone_are_of_the_method_that_the_last_is_named_like(links, clips):
    samples = [{"logprobs": [-1.0], "entropies": [0.5], "reward": 1.0}]
    credit, _ = run_links(links, samples)
    found = (credit["clip_low"][0][0], credit["clip_high"][0][0])
    assert found == pytest.approx(clips, rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_by_its_name_and_prefers_right_samples(method):
    """Those that normalise right and wrong samples apart prefer only among each."""
    entropies = ([0.1, 0.9], [0.2, 0.4, 0.6], [0.3], [0.8, 0.5])
    samples = [
        {"reward": i % 2, "group": "one", "logprobs": [-1.0 - i] * len(row), "entropies": row}
        for i, row in enumerate(entropies)
    ]
    names = ("reference_logprobs", "rollout_logprobs", "min_p_logprobs")
    for sample in samples:
        logprobs = sample["logprobs"]
        turns = [0, *[1] * (len(logprobs) - 1)]
        sample |= {**dict.fromkeys(names, logprobs), "hidden_ranks": [3.0, 0.1, 0.0]}
        count = len({*turns})
        sample |= {"turns": turns, "turn_rewards": [sample["reward"] / 2] * count}
        sample |= {"roles": ["one"] * count, "failed_calls": [0] * count}
    credit, _ = run_links(method, samples)
    wrong, right, *others = map(sum, run_loss(method, samples, credit).gradients)
    assert all(map(math.isfinite, (wrong, right, *others)))
    assert right < wrong or (method in ("gtpo", "grpo_s") and right != 0)
