"""The workflow of a model that calls tools, turn by turn, until it answers or meets a limit.

A turn is a call, an answer, an invalid call (the model is told), or void: neither. The last turn
that the limits allow has no tools: a call that is written there ends the episode.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerFast

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.config.workflow import WorkflowConfig
from megatron_stare.rollout.workflow.buffer import Buffer, end_of, reminded, room_for
from megatron_stare.rollout.workflow.formats import Format, cut_middle
from megatron_stare.rollout.workflow.workflow import Ask, Call, Calls
from megatron_stare.tools.tool import ToolResult
from megatron_stare.turns import Turn
from megatron_stare.types import Sample

VOID = "This is neither a call of a tool nor an answer. Call a tool, or give the answer."


class ToolUse:
    """Plays with tools of these names, whose calls are written in a format.

    Args:
        stop_ids: tokens that end a turn of the model.
    """

    def __init__(
        self,
        config: WorkflowConfig,
        tokenizer: PreTrainedTokenizerFast,
        written: Format,
        tools: Sequence[str],
        stop_ids: tuple[int, ...],
    ) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._buffer = Buffer(tokenizer)
        self._format = written
        self._tools = tools
        self._stop_ids = stop_ids
        self._answer = re.compile(config.answer_pattern or "")

    def next(self, episode: Sample, sampling: SamplingConfig) -> Ask | Calls | None:
        """See `Workflow`."""
        if episode.finish_reason != "aborted":
            return None
        turns, size = episode.turns, len(episode.token_ids)
        if turns and turns[-1].taken_as in ("call", "invalid") and turns[-1].end == size:
            before = [
                call
                for place, turn in enumerate(turns[:-1])
                if turn.num_calls and turn.kind == "model"
                for call in self._calls(episode, place, sampling)
                if not call.problem
            ]
            return Calls(self._calls(episode, len(turns) - 1, sampling), before)
        can_call = not _is_last_turn(turns, sampling)
        stop_ids = self._stop_ids + (self._format.call_stops if can_call else ())
        return Ask(room_for(episode, sampling), stop_ids)

    def completed(self, episode: Sample, sampling: SamplingConfig) -> Sample:
        """See `Workflow`."""
        if episode.finish_reason == "aborted":
            return episode
        if episode.finish_reason == "length":
            return self._buffer.with_turn(episode, "cut", "length")
        is_last = _is_last_turn(episode.turns, sampling)
        tokens = episode.token_ids[end_of(episode.turns) :]
        reading = self._format.read(tokens, can_call=not is_last)
        if reading.goes_on and room_for(episode, sampling) > 0:
            return replace(episode, finish_reason="aborted")
        if reading.goes_on:
            return self._buffer.with_turn(episode, "cut", "length")
        if not reading.calls:
            return self._answered(episode, is_last, sampling)
        known = [self._known(call) for call in reading.calls]
        num_valid = sum(not call.problem for call in known)
        return self._buffer.with_turn(
            episode,
            "call" if num_valid else "invalid",
            "turns" if is_last else "aborted",
            num_calls=0 if is_last else min(num_valid, self._max_calls(episode.turns, sampling)),
            num_invalid=len(known) - num_valid,
        )

    def observed(
        self, episode: Sample, results: Sequence[ToolResult], sampling: SamplingConfig
    ) -> Sample:
        """See `Workflow`. A turn without a call that could be made gets a notice."""
        seconds = math.fsum(result.seconds for result in results)
        episode = replace(episode, seconds=episode.seconds + seconds)
        size, called = len(episode.token_ids), episode.turns[-1]
        turn = Turn(size, size, "observation" if called.num_calls else "notice", seconds=seconds)
        failures = [result.failure for result in results if result.failure is not None]
        if failures:
            turns = (*episode.turns, replace(turn, failure=failures[0]))
            return replace(episode, turns=turns, finish_reason="failed")
        limit = sampling.turns.max_observation_tokens
        texts = [cut_middle(self._tokenizer, result.text, limit) for result in results]
        told = [*texts[:-1], reminded(texts[-1], episode, sampling)]
        ids = self._format.reply(told, last_token=episode.token_ids[-1])
        num_ok = sum(result.ok for result in results)
        return self._buffer.put_in(
            episode, ids, replace(turn, text="\n".join(texts), num_ok=num_ok), sampling
        )

    def _answered(self, episode: Sample, is_last: bool, sampling: SamplingConfig) -> Sample:
        """A turn without calls."""
        if self._answer.search(self._buffer.decode(episode.token_ids[end_of(episode.turns) :])):
            return self._buffer.with_turn(episode, "answer", "stop")
        if self._config.void == "mask":
            return self._buffer.with_turn(episode, "void", "void")
        if self._config.void == "penalise":
            return self._buffer.with_turn(episode, "void", "stop")
        if is_last:
            return self._buffer.with_turn(episode, "void", "turns")
        episode = self._buffer.with_turn(episode, "void", "aborted")
        size = len(episode.token_ids)
        told = reminded(VOID, episode, sampling)
        ids = self._format.notice(told, last_token=episode.token_ids[-1])
        return self._buffer.put_in(episode, ids, Turn(size, size, "notice", VOID), sampling)

    def _calls(self, episode: Sample, place: int, sampling: SamplingConfig) -> list[Call]:
        """Those of a turn, as they were read; those beyond the limits are not to be made."""
        turn = episode.turns[place]
        tokens = episode.token_ids[turn.start : turn.end]
        limit = self._max_calls(episode.turns[:place], sampling)
        calls: list[Call] = []
        for call in self._format.read(tokens, can_call=True).calls:
            known = self._known(call)
            num_made = sum(not call.problem for call in calls)
            if not known.problem and num_made == limit:
                known = replace(known, problem=f"not called: {limit} calls were made before it")
            calls.append(known)
        return calls

    def _known(self, call: Call) -> Call:
        if call.problem or call.name in self._tools:
            return call
        names = ", ".join(self._tools)
        return replace(
            call, problem=f"there is no tool {call.name[:80]!r}, expected one of {names}"
        )

    def _max_calls(self, before: Sequence[Turn], sampling: SamplingConfig) -> int:
        """Of a turn behind others."""
        return min(self._config.max_parallel_calls, sampling.turns.max_calls - _num_calls(before))


def _num_calls(turns: Sequence[Turn]) -> int:
    return sum(turn.num_calls for turn in turns)


def _is_last_turn(before: Sequence[Turn], sampling: SamplingConfig) -> bool:
    """Whether a turn behind others has no tools."""
    num_turns = sum(turn.kind == "model" for turn in before) + 1
    limits = sampling.turns
    return num_turns >= limits.max_turns or _num_calls(before) >= limits.max_calls
