"""The contract of every link of the table, in one process; that of ranks is in tests/distributed.

A link brings its golden numbers, and is held to the rest by standing in the table.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch

import megatron_stare.algorithms as algorithms
from megatron_stare.algorithms.chain import Chain
from megatron_stare.algorithms.config import AlgorithmConfig
from megatron_stare.algorithms.needs import OLD
from megatron_stare.algorithms.table import LINKS, PARTS
from tests.contract import ACTS, Decided, chain_with, decide, links_with, random_batch

every_link = pytest.mark.parametrize("name", LINKS)
EVERYONE = list(range(20))


def assert_same(found: Decided, expected: Decided) -> None:
    assert found.of_tokens.keys() == expected.of_tokens.keys()
    for name, values in expected.of_tokens.items():
        assert torch.equal(found.of_tokens[name], values), name


@every_link
def test_it_acts(name):
    """On these batches: a contract that nothing touches holds nothing."""
    method, batch = chain_with(name), random_batch(seed=0)
    decided = decide(Chain(method), batch, 1, EVERYONE)
    before = decide(Chain(method.model_copy(update={"links": {}})), batch, 1, EVERYONE)
    changed = any(
        not torch.equal(found, was)
        for found, was in zip(decided.credit, before.credit, strict=True)
    )
    assert changed or decided.report or any(mark.any() for mark in decided.marks.values())


@every_link
def test_it_makes_advantages_of_none_if_it_says_so(name):
    """A run whose chain makes none is refused."""
    method, batch = (
        AlgorithmConfig.model_validate({"links": [links_with(name)[-1]]}),
        random_batch(0),
    )
    made = any(decide(Chain(method), batch, n, EVERYONE).credit.advantages.any() for n in (1, 2))
    assert made == LINKS[name].makes_advantages


@every_link
def test_nothing_is_decided_under_the_mask(name):
    batch = random_batch(seed=1)
    decided = decide(Chain(chain_with(name)), batch, 1, EVERYONE)
    credit, mask = decided.credit, batch.rollouts.loss_mask
    assert not credit.advantages[~mask].any()
    assert not credit.counted[~mask].any()
    decided_finite = (credit.advantages, credit.weights, *decided.marks.values())
    assert all(part.isfinite().all() for part in decided_finite)


@every_link
def test_masked_tokens_anywhere_change_nothing(name):
    batch = random_batch(seed=2)
    more, where = batch.with_masked_tokens(seed=3)
    plain = decide(Chain(chain_with(name)), batch, 1, EVERYONE)
    among = decide(Chain(chain_with(name)), more, 1, EVERYONE)
    mask = batch.rollouts.loss_mask
    for field in ("advantages", "weights", "counted", *plain.marks):
        found, expected = among.of_tokens[field][where], plain.of_tokens[field]
        assert torch.equal(found[mask], expected[mask]), field
    assert among.report == pytest.approx(plain.report, rel=1e-12, nan_ok=True)
    assert among.states == plain.states


@every_link
def test_the_order_of_samples_does_not_matter(name, monkeypatch):
    """But for what is drawn: of so many, all are."""
    monkeypatch.setitem(ACTS, "clip_cov", {"share": 1.0})
    batch = random_batch(seed=4)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(5)).tolist()
    plain = decide(Chain(chain_with(name)), batch, 1, EVERYONE)
    shuffled = decide(Chain(chain_with(name)), batch.taken(order), 1, EVERYONE)
    index = batch.step(1, order, None).index
    for field in ("advantages", "weights", "counted", *plain.marks):
        torch.testing.assert_close(shuffled.of_tokens[field], plain.of_tokens[field][index])
    assert shuffled.report == pytest.approx(plain.report, rel=1e-6, nan_ok=True)


@every_link
def test_a_saved_state_goes_on_to_the_bit(name):
    batches = [random_batch(seed) for seed in range(4)]
    through, first = Chain(chain_with(name)), Chain(chain_with(name))
    expected = [decide(through, batch, n, EVERYONE) for n, batch in enumerate(batches, 1)]
    for number, batch in enumerate(batches, 1):
        again = Chain(chain_with(name))
        if number > 1:
            again.load_state_dict(json.loads(json.dumps(first.state_dict())))
        first = again
        found = decide(again, batch, number, EVERYONE)
        assert_same(found, expected[number - 1])
        assert found.states == expected[number - 1].states


@every_link
def test_it_reads_what_it_declares(name):
    """And its report what is known of every step at its end."""
    method, batch = chain_with(name), random_batch(seed=6)
    step, chain = batch.step(1, EVERYONE, None), Chain(method)
    declared = frozenset().union(*(link.needs for link in method.links.values()))
    for need in step.facts.keys() - declared:
        del step.facts[need]
    credit = chain.apply(step)
    for link in method.late:
        credit = link.apply(credit, step, None)
    step.facts[OLD] = batch.facts(step.index)[OLD]
    chain.report(credit, step)


@every_link
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_scores_of_a_broken_policy_stop_nothing(name, value):
    """Their loss is no number, and skips the update; until then no link raises."""
    batch = random_batch(seed=8)
    batch.logprobs[::3] = batch.entropies[::3] = value
    decide(Chain(chain_with(name)), batch, 1, EVERYONE)


@every_link
def test_a_link_of_single_samples_sees_no_others_and_has_no_state(name):
    method, batch = chain_with(name), random_batch(seed=7)
    if any(link.scope == "batch" for link in method.links.values()):
        pytest.skip("it looks at the batch")
    whole = decide(Chain(method), batch, 1, EVERYONE)
    for samples in ([3], [18, 5], [0]):
        alone = decide(Chain(method), batch, 1, samples)
        for field in ("advantages", "weights", "counted"):
            found, expected = getattr(alone.credit, field), getattr(whole.credit, field)
            assert torch.equal(found, expected[alone.index])
        assert set(alone.states.values()) == {None}


@pytest.mark.parametrize("name", PARTS)
def test_its_settings_are_its_only_attributes_and_say_what_they_are(name):
    kind = PARTS[name]
    assert kind.__doc__
    for key, field in kind.model_fields.items():
        assert field.description, key
    part = kind(**ACTS.get(name, {}))
    with pytest.raises(Exception, match=r"frozen|no field"):
        part.memory = 1


def test_no_part_reaches_other_ranks_by_itself():
    root = Path(algorithms.__path__[0])
    for path in [*root.glob("links/*.py"), *root.glob("terms/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            imported = [alias.name for alias in getattr(node, "names", [])]
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None) or "", *imported]
                assert not any("distributed" in str(name) for name in names), path.name
