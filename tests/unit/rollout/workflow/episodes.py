"""Episodes for tests: an engine that says what it is told to, and tools that are functions."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.config.workflow import WorkflowConfig
from megatron_stare.engines.engine import NO_MORE, More, Request
from megatron_stare.rollout.workflow.buffer import end_of
from megatron_stare.rollout.workflow.formats import Hermes, Reading
from megatron_stare.rollout.workflow.playing import PlayingEngine
from megatron_stare.rollout.workflow.tool_use import ToolUse
from megatron_stare.rollout.workflow.toolbox import Toolbox
from megatron_stare.rollout.workflow.workflow import Call
from megatron_stare.tools.tool import Arguments, ToolResult
from megatron_stare.types import Prompt, Sample
from tests.models import EOS_ID
from tests.tool_tokenizer import END_ID, make_tool_tokenizer

TOKENIZER = make_tool_tokenizer()
HERMES = Hermes(TOKENIZER, ())
STOP_IDS = (EOS_ID, END_ID)


def call(expression: str, name: str = "calculator") -> str:
    """A turn that calls."""
    arguments = f'{{"expression": "{expression}"}}'
    return f'<tool_call>{{"name": "{name}", "arguments": {arguments}}}</tool_call>'


class EveryTurnCalls:
    """A format in which a random model calls now and then: by the end of its turns."""

    call_stops: tuple[int, ...] = ()

    def read(self, token_ids: Sequence[int], *, can_call: bool) -> Reading:
        is_call = token_ids[-1] == END_ID
        return Reading(
            (Call("calculator", {"expression": str(len(token_ids))}),) if is_call else ()
        )

    def reply(self, results: Sequence[str], *, last_token: int) -> tuple[int, ...]:
        return tuple(TOKENIZER.encode(f"\n{results[0]}\n"))

    notice = reply


def asked(text: str = "6 * 7?") -> Prompt:
    ids = tuple(TOKENIZER.encode(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"))
    return Prompt(text, "test:1", text, ids, "42")


def workflow(**config: Any) -> ToolUse:
    settings = WorkflowConfig(format="hermes", **config)
    return ToolUse(settings, TOKENIZER, HERMES, ["calculator"], STOP_IDS)


class Calculator:
    """A tool whose answers are those of a function; sessions know what was asked before them."""

    name = "calculator"
    schema: ClassVar[dict[str, Any]] = {"type": "function", "function": {"name": name}}

    def __init__(
        self, answer: Callable[[str], ToolResult | str], *, remembers: bool = True
    ) -> None:
        self.answer = answer
        self.remembers = remembers
        self.logs: list[list[str]] = []
        """What each session began with."""
        self.num_open = 0

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass

    def session(self, log: Sequence[Arguments] = ()) -> Calculator:
        self.logs.append([arguments["expression"] for arguments in log])
        self.num_open += 1
        return _Session(self)


class _Session(Calculator):
    def __init__(self, tool: Calculator) -> None:
        self.tool = tool
        self.log = ()

    def call(self, arguments: Arguments, deadline_s: float) -> ToolResult:
        answer = self.tool.answer(arguments["expression"])
        return answer if isinstance(answer, ToolResult) else ToolResult(answer, ok=True)

    def close(self) -> None:
        self.tool.num_open -= 1


@dataclass
class Speaker:
    """An engine whose turns are those of a script, by prompt and turn; all run side by side.

    Each turn ends with the end of turn, or where there is no room.
    """

    script: dict[str, list[str]]
    weight_version: int = 3
    asked: list[tuple[int, ...]] = field(default_factory=list)
    """Tokens that were sent, request by request."""
    stop_after: int = 10**9
    """Answers, after which the rest comes as it stands: with half of its turn."""
    in_rounds: bool = False
    is_interrupted: bool = False
    known: threading.Event = field(default_factory=threading.Event)

    def generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingConfig,
        *,
        seed: int,
        more: More = NO_MORE,
    ) -> Generator[Sample, None, None]:
        more.when_known(self.known.set)
        waiting, self.is_interrupted = list(requests), False
        while waiting or (waiting := more.take("all" if self.in_rounds else "any")):
            request = waiting.pop(0)
            self.asked.append(request.prompt.token_ids + request.behind_prompt)
            yield self._answer(request, sampling)
            if not self.in_rounds:
                waiting += more.take("no")

    def _answer(self, request: Request, sampling: SamplingConfig) -> Sample:
        place = sum(turn.kind == "model" for turn in request.sample.turns)
        said = request.behind_prompt[end_of(request.sample.turns) :]
        turn = (*TOKENIZER.encode(self.script[request.prompt.uid][place]), END_ID)[len(said) :]
        is_stopped = self.is_interrupted or len(self.asked) > self.stop_after
        room = len(turn) // 2 if is_stopped else request.room(sampling)
        new = turn[:room]
        reason = "stop" if len(new) == len(turn) else "aborted" if is_stopped else "length"
        return request.answered(
            new,
            tuple(-0.001 * i for i in range(len(new))),
            reason,
            version=self.weight_version,
            seconds=1.0,
            tokenizer=TOKENIZER,
        )

    def batches(self, requests: Sequence[Request]) -> list[list[Request]]:
        return [list(requests)]

    def interrupt(self) -> None:
        self.is_interrupted = True


def play(
    script: list[str] | dict[str, list[str]],
    answer: Callable[[str], ToolResult | str] = lambda expression: str(eval(expression)),
    *,
    limits: dict[str, Any] | None = None,
    max_response_tokens: int = 2000,
    max_attempts: int = 3,
    remembers: bool = True,
    **config: Any,
) -> Sample:
    """The episode of one prompt, to its end."""
    speaker = Speaker({"6 * 7?": list(script)})
    toolbox = Toolbox(
        {"calculator": Calculator(answer, remembers=remembers)},
        deadline_s=5.0,
        max_attempts=max_attempts,
        report=lambda _: None,
    )
    engine = PlayingEngine(speaker, workflow(**config), toolbox)
    sampling = SamplingConfig(max_response_tokens=max_response_tokens, turns=limits or {})
    (sample,) = engine.generate([Request(asked(), 0)], sampling, seed=0)
    check(sample)
    return sample


def check(sample: Sample) -> None:
    """What holds of every episode: one entry a token, and turns that are the whole of it."""
    size = len(sample.token_ids)
    assert len(sample.logprobs) == len(sample.loss_mask) == len(sample.weight_versions) == size
    assert [turn.start for turn in sample.turns] == [0, *(turn.end for turn in sample.turns[:-1])]
    assert sample.turns[-1].end == size
    for turn in sample.turns:
        is_own = turn.kind == "model"
        for place in range(turn.start, turn.end):
            assert sample.loss_mask[place] == is_own
            assert math.isnan(sample.logprobs[place]) == (not is_own)
            assert (sample.weight_versions[place] == -1) == (not is_own)
