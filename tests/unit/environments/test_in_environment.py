"""Episodes in environments: their tokens, rewards and endings, and how they go on."""

from dataclasses import replace

import pytest

from megatron_stare.algorithms.turns import Turns
from megatron_stare.config.algorithm import RewardConfig
from megatron_stare.config.data import DataConfig, SourceConfig
from megatron_stare.config.environments import EnvironmentsConfig
from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.data.replies import reply_form
from megatron_stare.engines.engine import Request
from megatron_stare.environments.acting import Acting, seed_of
from megatron_stare.errors import UserError
from megatron_stare.rewards.scorer import Scorer
from megatron_stare.rollout.workflow.in_environment import InEnvironment
from megatron_stare.rollout.workflow.playing import PlayingEngine
from megatron_stare.rollout.workflow.toolbox import Toolbox
from megatron_stare.turns import LEFT_OUT
from megatron_stare.types import Group, Prompt, Reward, RolloutBatch, Sample
from tests.tool_tokenizer import END_ID
from tests.unit.environments.test_pool import GAMES
from tests.unit.rollout.workflow.episodes import STOP_IDS, TOKENIZER, Speaker, asked, check

SOURCES = {
    name: SourceConfig.model_validate({"path": "rows.jsonl", "environment": {"name": path}})
    for name, path in {
        "diary": f"{GAMES}:Diary",
        "duel": f"{GAMES}:Duel",
        "fickle": f"{GAMES}:Fickle",
    }.items()
}

FORM = reply_form(TOKENIZER, (), "user")


@pytest.fixture(scope="module")
def acting():
    sources = {name: (f"data.sources.{name}", source) for name, source in SOURCES.items()}
    acting = Acting(EnvironmentsConfig(workers=1), sources, max_attempts=2)
    yield acting
    acting.close()


def prompt_of(source: str) -> Prompt:
    return replace(asked(), source=source)


def engine_of(
    acting: Acting, script: list[str], reported: list[str] | None = None
) -> PlayingEngine:
    toolbox = Toolbox(
        {acting.name: acting},
        deadline_s=60.0,
        max_attempts=1,
        report=print if reported is None else reported.append,
    )
    workflow = InEnvironment(acting.start_of, TOKENIZER, FORM, STOP_IDS)
    return PlayingEngine(Speaker({"6 * 7?": script}), workflow, toolbox)


def play(
    acting: Acting,
    script: list[str],
    source: str = "diary",
    limits: dict[str, object] | None = None,
    max_response_tokens: int = 2000,
) -> Sample:
    sampling = SamplingConfig.model_validate(
        {"max_response_tokens": max_response_tokens, "turns": limits or {}}
    )
    request = Request(prompt_of(source), 0)
    (sample,) = engine_of(acting, script).generate([request], sampling, seed=0)
    check(sample)
    return sample


def rendered(*turns: str) -> list[int]:
    """A conversation as a whole, behind its prompt."""
    messages = [{"role": "user", "content": "6 * 7?"}]
    for place, text in enumerate(turns):
        messages.append({"role": "user" if place % 2 else "assistant", "content": text})
    text = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return TOKENIZER.encode(str(text), add_special_tokens=False)[len(asked().token_ids) :]


def test_tokens_are_those_of_the_conversation_as_a_whole(acting):
    sample = play(acting, ["one", "two"], limits={"max_turns": 2})
    assert [*sample.token_ids] == rendered("one", "42|one", "two")[: len(sample.token_ids)]
    assert sample.token_ids[-1] == END_ID
    assert [turn.kind for turn in sample.turns] == ["model", "observation"] * 2
    assert [turn.text for turn in sample.turns] == ["one", "42|one", "two", "42|one|two"]
    assert sample.turns[-1].start == sample.turns[-1].end, "nobody reads what is said last"


def test_turns_have_what_they_earned(acting):
    sample = play(acting, ["one", "two"], limits={"max_turns": 2})
    assert [turn.reward for turn in sample.turns] == [2.0, None, 3.0, None]
    assert {turn.taken_as for turn in sample.turns if turn.kind == "model"} == {"action"}


@pytest.mark.parametrize(
    ("script", "source", "limits", "ending"),
    [
        (["1", "2"], "duel", {}, "stop"),
        (["one", "two"], "diary", {"max_turns": 2}, "turns"),
        (["one", "two" * 20], "diary", {"max_turn_tokens": 10}, "length"),
        (["one", "two"], "diary", {"max_seconds": 1}, "seconds"),
        (["one", "raise"], "diary", {}, "failed"),
    ],
)
def test_every_ending_has_its_cause(acting, script, source, limits, ending):
    assert play(acting, script, source, limits).finish_reason == ending


def test_a_turn_that_was_cut_is_played_as_it_stands(acting):
    sample = play(acting, ["one", "two" * 20], limits={"max_turn_tokens": 10})
    assert sample.turns[-1].text == "42|one|twotwotwot"
    assert sample.turns[-2].reward == 3.0


def test_an_observation_without_room_ends_the_episode_and_half_of_it_is_not_put_in(acting):
    sample = play(acting, ["one", "two"], max_response_tokens=20)
    assert (sample.finish_reason, len(sample.turns)) == ("length", 1)
    assert sample.turns[0].reward == 2.0


def test_a_prompt_without_an_environment_is_a_single_turn(acting):
    sampling = SamplingConfig(max_response_tokens=100)
    engine = engine_of(acting, ["one"])
    (sample,) = engine.generate([Request(asked(), 0)], sampling, seed=0)
    assert (sample.finish_reason, sample.turns) == ("stop", ())


def test_a_failed_environment_is_no_reward(acting):
    reported: list[str] = []
    engine = engine_of(acting, ["one", "raise"], reported)
    (sample,) = engine.generate([Request(prompt_of("diary"), 0)], SamplingConfig(), seed=0)
    assert reported == ["1 calls of tools failed: 1 with environment: RuntimeError: no"]
    with Scorer(
        RewardConfig(), {"data": DataConfig(sources=SOURCES)}, max_response_tokens=100
    ) as scorer:
        assert scorer.code == "", "no verifier runs"
        good = play(acting, ["one", "two"], limits={"max_turns": 2})
        judged, failed = scorer.score([good, sample])
    assert (judged.value, judged.correct, judged.is_judged) == (5.0, 1.0, True)
    assert (failed.is_judged, failed.failure) == (False, "environment: RuntimeError: no")


THREE = SamplingConfig.model_validate({"max_response_tokens": 900, "turns": {"max_turns": 3}})


def stopped(whole: Sample, size: int) -> Request:
    """To go on with an episode that came so far; a turn without an answer has earned nothing."""
    turns = [turn for turn in whole.turns if turn.end <= size]
    if turns and turns[-1].kind == "model" and turns[-1].end == size:
        turns = [*turns[:-1], replace(turns[-1], reward=None, role="", anchor="")]
    begun = replace(
        whole,
        turns=tuple(turns),
        finish_reason="aborted",
        token_ids=whole.token_ids[:size],
        logprobs=whole.logprobs[:size],
        loss_mask=whole.loss_mask[:size],
        weight_versions=whole.weight_versions[:size],
    )
    return Request(whole.prompt, 0, begun)


def gone_on(acting: Acting, script: list[str], request: Request) -> Sample:
    (sample,) = engine_of(acting, script).generate([request], THREE, seed=0)
    check(sample)
    return sample


def test_wherever_it_is_stopped_an_episode_goes_on_to_the_same_end(acting):
    """In an environment that begins again, and is told of all turns before."""
    script = ["one", "two", "three"]
    whole = gone_on(acting, script, Request(prompt_of("diary"), 0))
    ends = [turn.end for turn in whole.turns]
    for size in (0, 2, ends[0], ends[1], ends[1] + 2, ends[2], ends[3], ends[3] + 1):
        found = gone_on(acting, script, stopped(whole, size))
        assert found.token_ids == whole.token_ids
        without = [replace(turn, seconds=0.0) for turn in whole.turns]
        assert [replace(turn, seconds=0.0) for turn in found.turns] == without, size


def test_an_environment_that_begins_otherwise_each_time_is_refused(acting):
    whole = gone_on(acting, ["a", "b", "c"], Request(prompt_of("fickle"), 0))
    sample = gone_on(acting, ["a", "b", "c"], stopped(whole, whole.turns[1].end))
    assert sample.finish_reason == "failed"
    assert sample.turns[-1].failure == (
        "it was begun again and said something else in turn 1: it has to draw its randomness from "
        "its start"
    )


def test_a_long_observation_loses_its_middle_and_is_known_again(acting):
    sampling = THREE.model_copy(
        update={"turns": THREE.turns.model_copy(update={"max_observation_tokens": 16})}
    )
    script, request = ["a" * 100, "b", "c"], Request(prompt_of("diary"), 0)
    (whole,) = engine_of(acting, script).generate([request], sampling, seed=0)
    assert LEFT_OUT in whole.turns[1].text
    sample = gone_on(acting, script, stopped(whole, whole.turns[1].end))
    assert (sample.finish_reason, sample.turns[-2].reward) == ("turns", 4.0)


def test_both_players_of_a_game_earn_their_own(acting):
    sample = play(acting, ["5", "9"], "duel")
    own = [turn for turn in sample.turns if turn.kind == "model"]
    assert [(turn.role, turn.anchor, turn.reward) for turn in own] == [
        ("player_0", "turn 0", -1.0),
        ("player_1", "turn 1", 1.0),
    ]


def batch_of(*samples: Sample, values: list[float]) -> RolloutBatch:
    rewards = tuple(Reward(value, 0.0, None, 0.0) for value in values)
    return RolloutBatch.from_groups([Group(samples[0].prompt, samples, rewards)])


def test_nothing_that_was_earned_counts_twice(acting):
    """A sample's reward is earned by its last turn, and is the sum of all of them."""
    sample = play(acting, ["one", "two"], limits={"max_turns": 2})
    turns = Turns(batch_of(sample, values=[5.0]))
    assert turns.rewards.tolist() == [2.0, 3.0]
    assert turns.returns(1.0).tolist() == [5.0, 3.0]
    assert turns.totals.tolist() == [5.0, 5.0]


def test_what_a_player_has_led_to_is_what_that_player_earned(acting):
    sample = play(acting, ["5", "9"], "duel")
    turns = Turns(batch_of(sample, values=[-1.0]))
    assert turns.roles.tolist() == [0, 1]
    assert turns.returns(1.0).tolist() == [-1.0, 1.0]


def test_rows_are_what_an_environment_begins_with(acting):
    source = SourceConfig.model_validate({"environment": {"name": f"{GAMES}:Diary"}, "size": 3})
    table = acting.rows(source, "data.sources.numbers")
    rows = list(table.rows)
    assert [row.fields["answer"] for row in rows] == [str(seed_of(1, n)) for n in (1, 2, 3)]
    assert [row.fields["question"] for row in rows] == [
        f"begins with {seed_of(1, n)}" for n in (1, 2, 3)
    ]


def test_an_environment_that_cannot_be_made_ends_the_start():
    broken = SourceConfig.model_validate(
        {"path": "rows.jsonl", "environment": {"name": "tests.nothing:Game"}}
    )
    acting = Acting(
        EnvironmentsConfig(workers=1), {"x": ("data.sources.x", broken)}, max_attempts=1
    )
    with pytest.raises(UserError) as error:
        acting.start()
    acting.close()
    assert str(error.value) == (
        "data.sources.x.environment: tests.nothing:Game cannot be used: ModuleNotFoundError: No "
        "module named 'tests.nothing'"
    )
