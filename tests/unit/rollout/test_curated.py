"""Prompts that a curriculum chooses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from megatron_stare.algorithms.curricula.band import Band, PassRates
from megatron_stare.algorithms.curricula.vade import Beliefs, Vade
from megatron_stare.algorithms.hooks import Curriculum
from megatron_stare.config.rollout import RolloutConfig
from megatron_stare.engines.replay import ReplayEngine
from megatron_stare.errors import UserError
from megatron_stare.rollout.curated import Curated
from megatron_stare.rollout.sampler import Sampler
from tests.models import VOCAB_SIZE
from tests.unit.rollout.problems import TOKENIZER, make_group, make_prompt_set, write_jsonl

TEXTS = [chr(ord("a") + place) for place in range(20)]


def curated(folder, curriculum: Curriculum, texts: Sequence[str] = TEXTS) -> Curated:
    return Curated(make_prompt_set(folder, texts), {"named": curriculum}, seed=3)


def texts_of(prompts) -> list[str]:
    return [prompt.text for prompt in prompts]


def play(drawn: Curated, steps: int) -> list[str]:
    """Steps in which the first half of the alphabet is always right, the second sometimes."""
    asked: list[str] = []
    for _ in range(steps):
        prompts = drawn.draw(6)
        asked += texts_of(prompts)
        verdicts = [[1.0, 1.0] if prompt.text < "k" else [0.0, 1.0] for prompt in prompts]
        drawn.observe([make_group(*pair) for pair in zip(prompts, verdicts, strict=True)])
    return asked


def test_beliefs_are_counts_of_verdicts_that_fade(tmp_path):
    """Beta(1, 1), 3 right and 5 wrong: Beta(4, 6), mean 0.4, variance of a verdict 0.24."""
    (prompt,) = make_prompt_set(tmp_path, ["a"]).draw(1)
    asked = [(7, make_group(prompt, [1.0] * 3 + [0.0] * 5))]
    lasting = Vade(asked_fade=1, fade=1)
    assert lasting.observe(asked, lasting.start()) == Beliefs({7: (4, 6)})
    a, b = Vade(asked_fade=0.5, fade=0.5).observe(asked, Beliefs({7: (5, 3), 1: (3, 1)})).of[7]
    assert (a, b) == (1 + 0.5 * (1 + 0.5 * 4 + 3 - 1), 1 + 0.5 * (1 + 0.5 * 2 + 5 - 1))
    assert Vade(fade=0.5).observe([], Beliefs({1: (3, 1)})).of == {1: (2, 1)}


@pytest.mark.parametrize("curriculum", [Vade(uniform=0), Band(again=0)])
def test_what_is_always_solved_is_asked_less(tmp_path, curriculum):
    asked = Counter(play(curated(tmp_path, curriculum), 30)[60:])
    assert sum(asked[text] for text in TEXTS if text < "k") < 0.25 * asked.total()


def test_a_share_is_drawn_whatever_is_believed():
    """Problem 0 is believed to be solved always, and is asked as often as the share says."""
    beliefs = Beliefs({0: (1e6, 1.0)})
    draws = [Vade(uniform=0.5).draw(4, range(8), beliefs, Random(seed)) for seed in range(400)]
    assert sum(0 in draw for draw in draws) / 400 == pytest.approx(2 / 6, abs=0.08)
    assert not any(0 in Vade(uniform=0).draw(4, range(8), beliefs, Random(s)) for s in range(50))


def test_a_band_fills_up_with_others():
    rates = PassRates({0: 0.0, 1: 1.0, 2: 0.5})
    drawn = Band(again=0).draw(4, range(4), rates, Random(0))
    assert {*drawn[:2]} == {2, 3}
    assert {*drawn[2:]} == {0, 1}
    assert 0 in {Band(again=1).draw(1, range(4), rates, Random(seed))[0] for seed in range(40)}


def test_a_step_asks_no_problem_twice_unless_it_has_to(tmp_path):
    drawn = curated(tmp_path, Vade())
    asked = texts_of([*drawn.draw(12), *drawn.draw(8)])
    assert sorted(asked) == TEXTS
    again = drawn.draw(45)
    assert {*Counter(texts_of(again)).values()} == {2, 3}
    assert len({prompt.uid for prompt in again}) == 45


@pytest.mark.parametrize("curriculum", [Vade(), Band()])
def test_it_goes_on_from_where_it_was_saved(tmp_path, curriculum):
    first, second = (curated(tmp_path, curriculum) for _ in range(2))
    play(first, 5)
    second.load_state_dict(first.state_dict())
    assert play(second, 5) == play(first, 5)
    assert second.state_dict() == first.state_dict()


class Stubborn(Curriculum[None]):
    """Draws what it likes."""

    places: tuple[int, ...] = ()

    def draw(self, count: int, problems: Sequence[int], state: Any, random: Random) -> list[int]:
        """Whatever was asked for."""
        return [*self.places]


@pytest.mark.parametrize("places", [[0], [0, 0], [0, 99], [0, 1, 2]])
def test_a_curriculum_that_draws_something_else_is_refused(tmp_path, places):
    with pytest.raises(UserError, match=r"curriculum=named: expected 2 different problem"):
        curated(tmp_path, Stubborn(places=places)).draw(2)


def test_another_curriculum_is_refused_by_name(tmp_path):
    prompts = make_prompt_set(tmp_path, TEXTS)
    vade, band = (Curated(prompts, {c: k()}, seed=3) for c, k in (("vade", Vade), ("band", Band)))
    with pytest.raises(UserError, match=r"curriculum=\[band\]: .* trained with \[vade\]"):
        band.load_state_dict(vade.state_dict())
    with pytest.raises(UserError, match=r"curriculum=\[band\]: .* without one"):
        band.load_state_dict(prompts.state_dict())
    with pytest.raises(UserError, match=r"curriculum=\[\]: .* trained with \[vade\]"):
        prompts.load_state_dict(vade.state_dict())
    others = curated(tmp_path, Vade(), TEXTS[1:])
    with pytest.raises(UserError, match="the data is not what the checkpoint was made with"):
        others.load_state_dict(curated(tmp_path, Vade()).state_dict())


def test_what_is_filtered_is_learned_from_and_what_is_carried_is_so_once(tmp_path, scorer):
    """Each group that a step has judged, as it was before any filter."""
    responses = {"a": ["yes", "yes"], "b": ["yes", "no"], "c": ["no", "no"], "d": ["no", "yes"]}
    rows = [{"prompt": p, "response": r} for p, texts in responses.items() for r in texts]
    engine = ReplayEngine(
        write_jsonl(tmp_path / "recorded.jsonl", rows), TOKENIZER, vocab_size=VOCAB_SIZE
    )
    config = RolloutConfig(
        engine="replay",
        replay_path=tmp_path / "recorded.jsonl",
        samples_per_prompt=2,
        max_response_tokens=10,
        prompts_per_step=2,
    )
    drawn = curated(tmp_path, Vade(fade=1, asked_fade=1), list(responses))
    Sampler(drawn, engine, scorer, config, seed=1).collect(1)
    beliefs = drawn.state_dict()["curriculum"]["named"]["of"]
    found = {"abcd"[place]: belief for place, belief in beliefs.items()}
    rights = {text: sum(r == "yes" for r in texts) for text, texts in responses.items()}
    assert found == {text: (1 + rights[text], 3 - rights[text]) for text in found}
    assert {"b", "d"} <= {*found}
