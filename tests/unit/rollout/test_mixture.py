"""Several sources of prompts: exact shares, each its own epochs, and where drawing stands."""

from __future__ import annotations

import json
from collections import Counter
from random import Random

import pytest

from megatron_stare.algorithms.curricula.vade import Vade
from megatron_stare.config.data import DataConfig
from megatron_stare.config.rollout import RolloutConfig
from megatron_stare.data.sources import in_turn, open_prompt_sets
from megatron_stare.engines.replay import ReplayEngine
from megatron_stare.errors import UserError
from megatron_stare.observe.metrics import find_metric
from megatron_stare.rollout.curated import Curated
from megatron_stare.rollout.dump import dump_samples
from megatron_stare.rollout.mixture import Mixture, next_in_turn, shares_of
from megatron_stare.rollout.sampler import Sampler
from tests.models import VOCAB_SIZE
from tests.unit.rollout.problems import TOKENIZER, make_group, make_prompt_set, write_jsonl

LETTERS, DIGITS = "abcdef", "0123456789"
WEIGHTS = {"letters": 1.0, "digits": 3.0}


def make_sets(folder, *, seed: int = 3, **settings):
    """Six letters and ten digits to ask; the answer is `yes`."""
    sources = {}
    for name, texts in (("letters", LETTERS), ("digits", DIGITS)):
        rows = [{"prompt": text, "answer": "yes"} for text in texts]
        path = write_jsonl(folder / f"{name}.jsonl", rows)
        sources[name] = {"path": path, "weight": WEIGHTS[name]}
    config = DataConfig.model_validate({"sources": sources, **settings})
    return open_prompt_sets(config, TOKENIZER, key="data", seed=seed)


def make_mixture(folder, *, weights=WEIGHTS, curriculum=None, seed: int = 3) -> Mixture:
    sets = make_sets(folder, seed=seed)
    if curriculum is None:
        return Mixture(sets, weights)
    named = {"vade": curriculum}
    curated = {n: Curated(s, named, seed=seed, source=n) for n, s in sets.items()}
    return Mixture(curated, weights)


def play(mixture: Mixture, steps: int) -> list[str]:
    """Steps that ask five prompts, twice as many rounds in every other; letters are solved."""
    asked = []
    for step in range(steps):
        prompts = [prompt for _ in range(1 + step % 2) for prompt in mixture.draw(5)]
        asked += [prompt.uid for prompt in prompts]
        verdicts = [[1.0, float(prompt.text in LETTERS)] for prompt in prompts]
        mixture.observe([make_group(*pair) for pair in zip(prompts, verdicts, strict=True)])
    return asked


def test_turns_are_in_proportion_at_every_moment():
    """Within one of the exact share after every draw, for any weights; and exact after a period."""
    random = Random(0)
    for _ in range(40):
        names = [f"s{i}" for i in range(random.randint(1, 7))]
        shares = shares_of({name: round(10 ** random.uniform(-3, 3), 3) for name in names})
        drawn = dict.fromkeys(names, 0)
        for number in range(1, 200):
            drawn[next_in_turn(drawn, shares)] += 1
            assert all(abs(drawn[n] - shares[n] * number) < 1 for n in names)
    drawn, shares = dict.fromkeys("abc", 0), shares_of({"a": 0.1, "b": 0.2, "c": 0.7})
    for _ in range(1000):
        drawn[next_in_turn(drawn, shares)] += 1
    assert drawn == {"a": 100, "b": 200, "c": 700}


def test_a_prompt_says_what_it_is_of_and_no_uid_comes_twice(tmp_path):
    drawn = make_mixture(tmp_path).draw(40)
    assert Counter(prompt.source for prompt in drawn) == {"letters": 10, "digits": 30}
    assert all((p.text in LETTERS) == (p.source == "letters") for p in drawn)
    assert all(p.uid.startswith(f"{p.source}:") for p in drawn)
    assert len({p.uid for p in drawn}) == 40


def test_each_source_has_epochs_of_its_own(tmp_path):
    """Ten letters are one epoch of six and a part of the next, thirty digits are three."""
    drawn = make_mixture(tmp_path).draw(40)
    letters = [p.text for p in drawn if p.source == "letters"]
    digits = [p.text for p in drawn if p.source == "digits"]
    assert sorted(letters[:6]) == [*LETTERS]
    assert len({*letters[6:]}) == 4
    assert Counter(digits) == dict.fromkeys(DIGITS, 3)
    assert digits[:10] != digits[10:20], "a new order"


def test_how_many_are_drawn_at_once_changes_nothing(tmp_path):
    one, other = make_mixture(tmp_path), make_mixture(tmp_path)
    assert [p for _ in range(6) for p in one.draw(4)] == [*other.draw(5), *other.draw(19)]
    assert make_mixture(tmp_path).draw(9) != make_mixture(tmp_path, seed=4).draw(9)


def test_sources_do_not_follow_each_other(tmp_path):
    """Two files of the same rows have orders of their own."""
    path = write_jsonl(tmp_path / "same.jsonl", [{"prompt": t, "answer": "x"} for t in DIGITS])
    config = DataConfig.model_validate({"sources": {"a": {"path": path}, "b": {"path": path}}})
    sets = open_prompt_sets(config, TOKENIZER, key="data", seed=1)
    orders = [[prompt.text for prompt in prompts.draw(10)] for prompts in sets.values()]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


def test_one_file_is_drawn_from_as_without_sources(tmp_path):
    """In an order, with uids and a state that runs of before have saved."""
    path = write_jsonl(tmp_path / "p.jsonl", [{"prompt": t, "answer": "x"} for t in LETTERS])
    ((name, prompts),) = open_prompt_sets(
        DataConfig(path=path), TOKENIZER, key="data", seed=7
    ).items()
    assert name == ""
    drawn = prompts.draw(8)
    assert [prompt.uid for prompt in drawn] == [
        "0-5",
        "0-3",
        "0-2",
        "0-4",
        "0-1",
        "0-6",
        "1-5",
        "1-3",
    ]
    assert {prompt.source for prompt in drawn} == {""}
    assert prompts.state_dict() == {
        "rows": 6,
        "digest": "ae0fc4027ccf08a8",
        "seed": 7,
        "shuffle": True,
        "epoch": 1,
        "position": 2,
    }


@pytest.mark.parametrize("curriculum", [None, Vade()])
def test_it_goes_on_from_where_it_was_saved(tmp_path, curriculum):
    first, second = (make_mixture(tmp_path, curriculum=curriculum) for _ in range(2))
    play(first, 5)
    assert json.dumps(first.state_dict(), sort_keys=True), "a rollout bank is known by it"
    second.load_state_dict(first.state_dict())
    assert play(second, 6) == play(first, 6)
    assert second.state_dict() == first.state_dict()


def test_a_curriculum_chooses_within_its_source(tmp_path):
    """Letters are always solved, and still have the share of their weight."""
    mixture = make_mixture(tmp_path, curriculum=Vade(uniform=0))
    asked = play(mixture, 8)
    assert Counter(uid.partition(":")[0] for uid in asked) == {"letters": 15, "digits": 45}
    states = mixture.state_dict()["sources"]
    beliefs = {name: state["curriculum"]["vade"]["of"] for name, state in states.items()}
    assert all(b == 1 and a > 1 for a, b in beliefs["letters"].values())
    assert all(a > 1 and b > 1 for a, b in beliefs["digits"].values())


def test_other_weights_hold_from_where_they_are_given(tmp_path):
    """What was drawn under those before is not made up for."""
    first = make_mixture(tmp_path)
    first.draw(400)
    second = make_mixture(tmp_path, weights={"letters": 1.0, "digits": 1.0})
    second.load_state_dict(first.state_dict())
    drawn = Counter(prompt.source for prompt in second.draw(20))
    assert drawn == {"letters": 10, "digits": 10}


def test_other_sources_are_refused_by_name(tmp_path):
    mixture, single = make_mixture(tmp_path), make_prompt_set(tmp_path, LETTERS)
    curated = Curated(single, {"vade": Vade()}, seed=3)
    with pytest.raises(UserError, match=r"sources=\[letters, digits\]: .* with one set of prompts"):
        mixture.load_state_dict(single.state_dict())
    for alone in (single, curated):
        with pytest.raises(UserError, match=r"sources=\[\]: .* trained with \[letters, digits\]"):
            alone.load_state_dict(mixture.state_dict())
    state = mixture.state_dict()
    state["sources"] = {"letters": state["sources"]["letters"], "more": {}}
    with pytest.raises(UserError, match=r"trained with \[letters, more\]"):
        make_mixture(tmp_path).load_state_dict(state)
    before = mixture.state_dict()
    before["sources"]["digits"]["digest"] = "another"
    with pytest.raises(UserError, match=r"digits.jsonl: the data is not what the checkpoint"):
        make_mixture(tmp_path).load_state_dict(before)


def test_a_step_counts_what_it_drew_and_kept_of_each(tmp_path, scorer):
    """Digits are half solved, letters never: dynamic sampling goes on until the batch is full."""
    recorded = [
        {"prompt": text, "response": "yes" if text in DIGITS and half else "no"}
        for text in (*LETTERS, *DIGITS)
        for half in (True, False)
    ]
    path = write_jsonl(tmp_path / "recorded.jsonl", recorded)
    config = RolloutConfig(
        engine="replay",
        replay_path=path,
        samples_per_prompt=2,
        max_response_tokens=10,
        prompts_per_step=6,
    )
    engine = ReplayEngine(path, TOKENIZER, vocab_size=VOCAB_SIZE)
    rollout = Sampler(make_mixture(tmp_path), engine, scorer, config, seed=1).collect(1)
    metrics = {k: v for k, v in rollout.metrics.items() if k.startswith("source/")}
    assert all(find_metric(name) for name in metrics)
    assert rollout.metrics["rollout/drawn"] == 9
    assert metrics == {
        "source/letters/drawn": 2,
        "source/letters/completed": 0,
        "source/letters/reward": 0,
        "source/letters/accuracy": 0,
        "source/letters/signal_share": 0,
        "source/letters/failures": 0,
        "source/letters/response_tokens_mean": 3,
        "source/letters/truncated_share": 0,
        "source/digits/drawn": 7,
        "source/digits/completed": 6,
        "source/digits/reward": 0.5,
        "source/digits/accuracy": 0.5,
        "source/digits/signal_share": 1,
        "source/digits/failures": 0,
        "source/digits/response_tokens_mean": 3.5,
        "source/digits/truncated_share": 0,
    }
    dump_samples(tmp_path / "dump" / "step.jsonl", rollout.groups, [0.0] * 12)
    assert '"source": "digits"' in (tmp_path / "dump" / "step.jsonl").read_text()


def test_held_out_problems_take_turns(tmp_path):
    """So that the first of them are not all of one source."""
    asked = in_turn(make_sets(tmp_path))
    assert [p.text for p in asked[:6]] == ["a", "0", "b", "1", "c", "2"]
    assert len(asked) == len(LETTERS) + len(DIGITS)
