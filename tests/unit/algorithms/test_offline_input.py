"""Plain lists for chains: what may be missing, what is named, and what may be a part."""

from __future__ import annotations

import doctest
import importlib
import json
import pkgutil
import subprocess
import sys
from typing import Any

import pytest

import megatron_stare.algorithms as algorithms
from megatron_stare.algorithms.offline import run_links, run_loss
from megatron_stare.errors import UserError
from tests.unit.algorithms.golden import (
    REPO,
)

Case = dict[str, Any]


def test_what_no_part_reads_may_be_missing_and_what_one_reads_is_named():
    samples = [{"reward": 1.0, "mask": [1, 1]}]
    run_links("grpo", samples)
    with pytest.raises(
        KeyError, match=r"stare reads scores of the policy before the step: .* logprobs"
    ):
        run_links("stare", samples)
    with pytest.raises(
        KeyError, match=r"kl reads scores of the reference policy: .* reference_logprobs"
    ):
        run_loss({"method": "grpo", "terms": ["kl"]}, [{"logprobs": [-1.0]}], {})
    with pytest.raises(KeyError, match="current_logprobs"):
        run_loss("grpo", samples, {})


def test_lists_of_one_sample_have_one_length():
    with pytest.raises(ValueError, match="'logprobs': 2, 'entropies': 1"):
        run_links("grpo", [{"logprobs": [-1.0, -1.0], "entropies": [0.5]}])
    with pytest.raises(ValueError, match="nothing per token"):
        run_links("grpo", [{"reward": 1.0}])


def test_entropies_that_are_not_given_are_not_taken_for_zero():
    """The gate is held, as in a run whose entropies are not finite; a bonus has no loss."""
    _, states = run_links("stare", [{"logprobs": [-1.0], "entropies": [0.9]}])
    assert not states["stare"]["gate_on"]
    _, states = run_links("stare", [{"logprobs": [-1.0]}], step=2, states=states)
    assert not states["stare"]["gate_on"]
    bonus = {"method": "grpo", "terms": [{"entropy": {"coef": 1}}]}
    with pytest.raises(KeyError, match="current_entropies: the samples have neither these"):
        run_loss(bonus, [{"logprobs": [-1.0]}], {})
    assert run_loss(bonus, [{"logprobs": [-1.0], "entropies": [0.5]}], {}).loss == -0.5


def test_a_chain_may_start_from_advantages_of_samples_or_tokens():
    given = [{"logprobs": [-1.0, -1.0], "advantages": advantages} for advantages in (2, [3, 4])]
    credit, _ = run_links(["quadrants"], [*given, {"logprobs": [-1.0]}])
    assert credit["advantages"] == [[2.0, 2.0], [3.0, 4.0], [0.0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: run_links("grpo", []), "samples: expected at least one, found none"),
        (lambda s: run_loss("grpo", [], {}), "samples: expected at least one, found none"),
        (lambda s: run_links("grpo", [s | {"advantages": [1.0]}]), "1 values for the 2 tokens"),
        (lambda s: run_loss("grpo", [s], {"weights": [[1.0] * 3]}), "weights: 3 values for the 2"),
        (lambda s: run_loss("grpo", [s], {"weights": []}), "weights: 0 rows for 1 samples"),
        (lambda s: run_loss("grpo", [s], {"advantage": [[1, 1]]}), "advantage"),
        (lambda s: run_links("gpro", [s]), "method='gpro': expected one of grpo, "),
        (lambda s: run_links(["grppo"], [s]), "unknown name 'grppo': .* did you mean grpo?"),
        (
            lambda s: run_links("grpo", [s | {"turns": [1, 1]}]),
            r"turns: \[1, 1\], expected numbers",
        ),
        (
            lambda s: run_links("grpo", [s | {"turns": [0, 2]}]),
            r"turns: \[0, 2\], expected numbers",
        ),
        (
            lambda s: run_links("grpo", [s | {"anchors": ["a", "b"]}]),
            "anchors: 2 values for the 1 t",
        ),
        (lambda s: run_links([{"tis": {"high": 0}}], [s]), "(?s)tis.high.*greater than or equal"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call({"logprobs": [-1.0, -2.0]})


def test_a_class_of_a_notebook_is_a_part():
    code = """
from megatron_stare.algorithms.hooks import Link
from megatron_stare.algorithms.offline import run_links

class Half(Link[None]):
    def apply(self, credit, step, state):
        return credit.scaled(0.5)

print(run_links(["grpo", "__main__:Half"], [{"logprobs": [-1.0]}])[0]["weights"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[[0.5]]\n", done.stderr


def test_states_of_another_chain_are_refused():
    samples = [{"reward": 1.0, "logprobs": [-1.0], "entropies": [0.1]}]
    _, states = run_links("stare", samples)
    again, _ = run_links("stare", samples, step=2, states=json.loads(json.dumps(states)))
    assert again["weights"] == [[1.1]]
    with pytest.raises(
        UserError, match=r"algorithm.links=\[grpo\]: .* trained with \[grpo, stare\]"
    ):
        run_links("grpo", samples, states=states)


def test_importing_it_takes_neither_megatron_nor_transformers():
    code = "import sys, megatron_stare.algorithms.offline; print(*sys.modules)"
    line = [sys.executable, "-c", code]
    modules = subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()
    assert not {"megatron", "transformers"} & {name.partition(".")[0] for name in modules}


def test_examples_in_the_docstrings_are_true():
    names = [
        info.name
        for info in pkgutil.walk_packages(algorithms.__path__, "megatron_stare.algorithms.")
    ]
    outcomes = {name: doctest.testmod(importlib.import_module(name)) for name in names}
    assert outcomes["megatron_stare.algorithms.offline"].attempted
    assert [name for name, outcome in outcomes.items() if outcome.failed] == []


def test_examples_on_the_page_are_true():
    outcome = doctest.testfile(str(REPO / "docs" / "methods.md"), module_relative=False)
    assert (outcome.attempted > 0, outcome.failed) == (True, 0)
