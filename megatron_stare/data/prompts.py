"""The prompts of a run: which rows can be asked, and in what order they are."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerFast

from megatron_stare.config.data import DataConfig
from megatron_stare.data.cursor import EpochCursor, digest_of
from megatron_stare.data.tables import (
    Row,
    RowReport,
    Table,
    UnusableRow,
    build_rows,
    checked_text,
)
from megatron_stare.data.templates import PromptTemplate, Question, with_end
from megatron_stare.data.turns import TurnForm
from megatron_stare.errors import UserError
from megatron_stare.types import Group, Prompt

_NONE = array("i")


@dataclass(frozen=True, slots=True)
class _Problem:
    """A usable row."""

    number: int
    name: str
    question: Question
    text: str
    token_ids: array[int]
    answer: str
    demonstration: str
    demonstration_ids: array[int]


class PromptSet:
    """Prompts of one source, drawn epoch after epoch, each epoch in a seeded order.

    Rows that cannot be used (no such field, wrong type, empty, malformed, too long) are in
    `report`, by reason and by name. UserError where none is left, and for a prompt over the limit
    with `on_long_prompt: error`.

    Args:
        source: the name of this set among several: its prompts carry it, their uids begin with it.
        table: its rows, where they are in no file.
    """

    report: RowReport
    form: TurnForm
    """What the template writes around a response."""

    def __init__(
        self,
        config: DataConfig,
        tokenizer: PreTrainedTokenizerFast,
        *,
        seed: int,
        max_demonstration_tokens: int = sys.maxsize,
        source: str = "",
        table: Table | None = None,
        tools: Sequence[dict[str, Any]] = (),
        begins: tuple[int, ...] | None = None,
    ) -> None:
        self._begins = begins
        self._prefix = f"{source}:" if source else ""
        self._source = source
        self._max_tokens = config.max_prompt_tokens
        self._template = template = PromptTemplate(
            config.template,
            tokenizer,
            system_prompt=config.system_prompt,
            parse_special_tokens=config.parse_special_tokens,
            tools=tools,
        )
        self.form = template.form

        rows = self._read(config, template, table)
        rendered = template.render([question for _, question, _, _ in rows])
        worked = [demonstration for *_, demonstration in rows]
        has_field = config.demonstration_field is not None
        responses = with_end(tokenizer, worked) if has_field else [_NONE] * len(rows)
        self._problems: list[_Problem] = []
        for row, prompt, response in zip(rows, rendered, responses, strict=True):
            number, question, answer, demonstration = row
            name = question.name
            if isinstance(prompt, UnusableRow):
                self.report.leave_out(name, str(prompt))
            elif len(response) > max_demonstration_tokens:
                limit = f"over {max_demonstration_tokens} tokens"
                self.report.leave_out(name, f"field {config.demonstration_field!r} {limit}")
            elif self._fits(name, len(prompt.token_ids), config):
                texts = (prompt.text, prompt.token_ids, answer, demonstration)
                self._problems.append(_Problem(number, name, question, *texts, response))
        self.report.finish(len(self._problems))
        self._places = {problem.number: place for place, problem in enumerate(self._problems)}
        self._cursor = EpochCursor(
            len(self._problems),
            seed=seed,
            shuffle=config.shuffle,
            name=self.report.name,
            digest=digest_of(
                (p.number, p.text, p.answer, *([p.demonstration] if p.demonstration else []))
                for p in self._problems
            ),
        )

    def _read(
        self, config: DataConfig, template: PromptTemplate, table: Table | None
    ) -> list[tuple[int, Question, str, str]]:
        """Number, question, answer and demonstration of each row that has them."""

        def problem(row: Row) -> tuple[int, Question, str, str]:
            question = template.question(row, config.prompt_field)
            field = config.demonstration_field
            worked = "" if field is None else checked_text(row.text(field), field)
            demonstration = self.form.without_prefill(worked)
            return row.number, question, row.text(config.answer_field), demonstration

        if table is None:
            rows, self.report = build_rows(config.file, problem)
        else:
            rows, self.report = table.build(problem)
        return rows

    def __len__(self) -> int:
        """Usable prompts."""
        return len(self._problems)

    def draw(self, count: int) -> list[Prompt]:
        """The next `count` prompts, going on into further epochs; uids are `epoch-row`."""
        return [self._prompt(row, str(epoch)) for epoch, row in self._cursor.take(count)]

    def at(
        self, places: Iterable[int], occasion: str, appended: Mapping[int, str] | None = None
    ) -> list[Prompt]:
        """The prompts of these places, from 0; uids are `occasion-row`.

        Args:
            appended: to what a row asks, by place; not where the prompt would be too long with it.
        """
        longer = self._with_more({place: text for place, text in (appended or {}).items() if text})
        return [replace(self._prompt(place, occasion), **longer.get(place, {})) for place in places]

    def place_of(self, prompt: Prompt) -> int:
        """Where a prompt of this set stands in it."""
        return self._places[int(prompt.uid.rpartition("-")[2])]

    def all(self) -> list[Prompt]:
        """Every prompt once, in the file's order, apart from the cursor; uids are `all-row`."""
        return self.at(range(len(self)), "all")

    def observe(self, judged: Sequence[Group]) -> None:
        """The order of an epoch does not depend on what comes of it."""

    def state_dict(self) -> dict[str, Any]:
        """Where drawing stands, as plain values."""
        return self._cursor.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on drawing where `state` was saved; UserError where the data is not the same."""
        if "curriculum" in state:
            raise UserError(
                "algorithm.curriculum=[]: the run has been trained with "
                f"[{', '.join(state['curriculum'])}]; go on with it, or begin anew "
                "(run.resume=never)"
            )
        check_one_source(state)
        self._cursor.load_state_dict(state)

    def _fits(self, name: str, num_tokens: int, config: DataConfig) -> bool:
        limit = config.max_prompt_tokens
        if num_tokens <= limit:
            return True
        if config.on_long_prompt == "error":
            raise UserError(
                f"{name}: a prompt of {num_tokens} tokens, "
                f"expected at most max_prompt_tokens={limit} (or on_long_prompt: skip)"
            )
        self.report.leave_out(name, f"over {limit} tokens")
        return False

    def _with_more(self, appended: Mapping[int, str]) -> dict[int, dict[str, Any]]:
        """What is different of a prompt with more to its question, by place, where that fits."""
        questions = [
            self._template.with_more(self._problems[place].question, text)
            for place, text in appended.items()
        ]
        pairs = zip(appended.items(), self._template.render(questions), strict=True)
        return {
            place: {
                "text": now.text,
                "token_ids": self._begins or tuple(now.token_ids),
                "appended": text,
            }
            for (place, text), now in pairs
            if not isinstance(now, UnusableRow) and len(now.token_ids) <= self._max_tokens
        }

    def _prompt(self, row: int, occasion: str) -> Prompt:
        problem = self._problems[row]
        return Prompt(
            uid=f"{self._prefix}{occasion}-{problem.number}",
            row=problem.name,
            text=problem.text,
            token_ids=self._begins or tuple(problem.token_ids),
            answer=problem.answer,
            demonstration=problem.demonstration,
            demonstration_ids=tuple(problem.demonstration_ids),
            source=self._source,
        )


def check_one_source(state: Mapping[str, Any]) -> None:
    """See that a saved state of drawing is that of one set of prompts.

    Raises:
        UserError: it is of several.
    """
    if "sources" in state:
        raise UserError(
            f"data.sources=[]: the run has been trained with [{', '.join(state['sources'])}]; "
            "go on with them, or begin anew (run.resume=never)"
        )
