"""The loop over a file of given responses: what `sft` and `prefer` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from transformers import PreTrainedTokenizerFast

from megatron_stare.checkpoint.resume import check_inputs
from megatron_stare.config.prefer import PreferConfig
from megatron_stare.config.sft import SftConfig
from megatron_stare.data.drawn import DrawnSet
from megatron_stare.data.tokenizer import check_vocabulary, load_tokenizer, tokenizer_identity
from megatron_stare.launch.rank_zero import from_rank_zero
from megatron_stare.observe.health import Health
from megatron_stare.run.preflight import check_rows
from megatron_stare.run.saving import Saving, keep_saving, open_folder
from megatron_stare.run.session import Session, open_session, open_world
from megatron_stare.system.signals import stop_requests


class Lesson(Protocol):
    """What a command makes of a session and its data. Every rank does the same."""

    def take_step(self, number: int) -> Mapping[str, float]:
        """An update on what is drawn next; its metrics."""
        ...

    def evaluate(self, number: int) -> Mapping[str, float]:
        """Metrics of held-out data after a step, 0 before the first; none where it is not due."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What it goes on with, as plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; UserError where data or method are not the same."""
        ...


def loop_over_data[D: DrawnSet](
    config: SftConfig | PreferConfig,
    read: Callable[[PreTrainedTokenizerFast], list[D]],
    begin: Callable[[Session, list[D]], Lesson],
) -> None:
    """Train from the start, or from the newest checkpoint, to the end, and write the policy.

    Args:
        read: the sets that the run uses, on rank 0.
        begin: makes the lesson of a policy with the weights that the run starts from.

    Raises:
        UserError: bad input, before any GPU time where possible.
        Stopped: the run was asked to stop, and is saved.
    """
    last = config.loop.steps
    with stop_requests(config.checkpoint.grace_s) as stop, open_world(config) as world:
        check_rows(config, world.shape)

        def read_all() -> tuple[list[D], dict[str, str]]:
            tokenizer = load_tokenizer(config.model.path)
            check_vocabulary(tokenizer, world.shape.vocab_size)
            return read(tokenizer), tokenizer_identity(tokenizer)

        sets, inputs = from_rank_zero(read_all)
        for found in sets:
            _tell(found, world.loggers.message)
        session = open_session(
            config,
            world,
            num_updates=last,
            temperature=1.0,
            max_tokens_per_micro_batch=config.loop.max_tokens_per_micro_batch,
        )
        lesson = begin(session, sets)
        with keep_saving(config, world, session, stop, num_steps=last) as saving:
            if world.resumed is not None:
                with world.resumed.reading() as state:
                    changes = check_inputs(state.get("inputs", {}), inputs)
                    lesson.load_state_dict(state)
                for change in changes:
                    world.loggers.message(f"changed since the run was saved: {change}")
            open_folder(config, world)
            _take_steps(session, lesson, saving, last, inputs)


def _take_steps(
    session: Session, lesson: Lesson, saving: Saving, last: int, inputs: Mapping[str, str]
) -> None:
    """Each is saved as the config says, with what the run reads besides its data."""
    health = Health()
    if saving.step == last:  # It was to be longer when it was saved, or is over.
        session.save_final(last)
    if saving.step == 0:
        _evaluate(session, lesson, 0)
    for step in range(saving.step + 1, last + 1):
        metrics = lesson.take_step(step)
        session.loggers.log(step, metrics)
        for news in health.news(step, metrics):
            session.loggers.message(news)
        _evaluate(session, lesson, step)
        if step == last:
            session.save_final(last)
        saving.save_if_due(step, lambda: {**lesson.state_dict(), "inputs": dict(inputs)})


def _evaluate(session: Session, lesson: Lesson, step: int) -> None:
    if metrics := lesson.evaluate(step):
        session.loggers.log(step, metrics)


def _tell(found: DrawnSet, message: Callable[[str], None]) -> None:
    message(str(found.report))
    if found.num_prefilled:
        message(
            f"{found.num_prefilled} responses begin as the template begins them in the prompt; it "
            "is learned from none of them"
        )
