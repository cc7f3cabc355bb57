"""The workflow of a model that acts in an environment, until that has ended or a limit is met.

Every turn is played whole, as it stands, one that met a limit of tokens too: what it has earned is
the environment's to say, and the limit then ends the episode. Prompts that have no environment are
single turns, of which nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerFast

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.data.replies import ReplyForm
from megatron_stare.environments.acting import Acting, Played, Told
from megatron_stare.environments.environment import Start, Step
from megatron_stare.rollout.workflow.buffer import Buffer, reminded, room_for
from megatron_stare.rollout.workflow.formats import cut_middle
from megatron_stare.rollout.workflow.workflow import Ask, Call, Calls
from megatron_stare.tools.tool import ToolResult
from megatron_stare.turns import Turn
from megatron_stare.types import FinishReason, Prompt, Sample


class InEnvironment:
    """Plays where `start_of` says where a prompt begins.

    Args:
        form: of observations, which are replies to the model's turns.
        stop_ids: tokens that end a turn of the model.
    """

    def __init__(
        self,
        start_of: Callable[[Prompt], Start | None],
        tokenizer: PreTrainedTokenizerFast,
        form: ReplyForm,
        stop_ids: tuple[int, ...],
    ) -> None:
        self._start_of = start_of
        self._tokenizer = tokenizer
        self._buffer = Buffer(tokenizer)
        self._form = form
        self._stop_ids = stop_ids

    def next(self, episode: Sample, sampling: SamplingConfig) -> Ask | Calls | None:
        """See `Workflow`."""
        if episode.finish_reason != "aborted":
            return None
        start, turns = self._start_of(episode.prompt), episode.turns
        if start is None:
            return Ask(sampling.max_response_tokens - len(episode.token_ids), self._stop_ids)
        if turns and turns[-1].kind == "model" and turns[-1].end == len(episode.token_ids):
            common = {"source": episode.prompt.source, "start": start}
            own, said = turns[0::2], turns[1::2]
            told = [Told(turn.text, to.text) for turn, to in zip(own, said, strict=False)]
            before = [Call(Acting.name, {**common, "told": one}) for one in told]
            return Calls([Call(Acting.name, {**common, "text": turns[-1].text})], before)
        return Ask(room_for(episode, sampling), self._stop_ids)

    def completed(self, episode: Sample, sampling: SamplingConfig) -> Sample:
        """See `Workflow`."""
        if episode.finish_reason == "aborted" or self._start_of(episode.prompt) is None:
            return episode
        return self._buffer.with_turn(episode, "action", "aborted")

    def observed(
        self, episode: Sample, results: Sequence[ToolResult], sampling: SamplingConfig
    ) -> Sample:
        """See `Workflow`. A last observation has no tokens: the model does not read it."""
        (played,) = results
        episode = replace(episode, seconds=episode.seconds + played.seconds)
        size = len(episode.token_ids)
        turn = Turn(size, size, "observation", seconds=played.seconds, failure=played.failure)
        if not isinstance(played, Played) or played.failure is not None:
            return replace(episode, turns=(*episode.turns, turn), finish_reason="failed")
        text = cut_middle(self._tokenizer, played.text, sampling.turns.max_observation_tokens)
        turn = replace(turn, text=text, num_ok=1)
        ending = self._ending(episode, played.step, sampling)
        episode = replace(episode, turns=_credited(episode.turns, played.step))
        if ending != "aborted":
            return replace(episode, turns=(*episode.turns, turn), finish_reason=ending)
        told = reminded(text, episode, sampling)
        ids = self._form.encode([told], last_token=episode.token_ids[-1])
        return self._buffer.put_in(episode, ids, turn, sampling)

    def _ending(self, episode: Sample, step: Step, sampling: SamplingConfig) -> FinishReason:
        """`aborted` where it goes on."""
        if step.done:
            return "stop"
        if not episode.token_ids or episode.token_ids[-1] not in self._stop_ids:
            return "length"
        num_turns = sum(turn.kind == "model" for turn in episode.turns)
        return "turns" if num_turns >= sampling.turns.max_turns else "aborted"


def _credited(turns: Sequence[Turn], step: Step) -> tuple[Turn, ...]:
    """With what the last turn of each player has earned."""
    found = list(turns)
    found[-1] = replace(found[-1], reward=step.reward, anchor=step.state, role=step.role)
    for role, reward in step.rewards.items():
        places = [place for place, turn in enumerate(found) if turn.role == role and turn.role]
        for place in places[-1:]:
            found[place] = replace(found[place], reward=(found[place].reward or 0.0) + reward)
    return tuple(found)
