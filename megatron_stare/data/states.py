"""States of responses: a prompt, and the prompt with a response up to each of its cuts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from megatron_stare.config.data import DataConfig
from megatron_stare.data.prompts import PromptSet
from megatron_stare.data.tables import Row, UnusableRow, build_rows
from megatron_stare.system.folders import write_whole
from megatron_stare.types import Prompt

State = dict[str, Any]
"""A row of a prompt set: `prompt`, `answer`, the `row` that it is from, its `cut`, from 0."""


def states_of(
    config: DataConfig, response_field: str, cut: str, tokenizer: PreTrainedTokenizerFast
) -> tuple[list[State], str]:
    """The states of every row that has a response, each once, and a report of the rows.

    A state's prompt is what the policy reads, whatever template has made it. Rows that have special
    tokens in a text of their own are left out: a state could not tell them from the template's.

    Raises:
        UserError: no row can be used.
    """
    prompts = PromptSet(config, tokenizer, seed=0)
    of_row = {prompt.row: prompt for prompt in prompts.all()}

    def states_of_row(row: Row) -> list[State]:
        response = row.text(response_field)
        if (prompt := of_row.get(row.name)) is None:
            raise UnusableRow("no prompt")
        beginning = _without_bos(prompt.text, tokenizer)
        if not _is_read_as(prompt, tokenizer):
            raise UnusableRow("special tokens in the row's text")
        return [
            {"prompt": beginning + prefix, "answer": prompt.answer, "row": row.name, "cut": number}
            for number, prefix in enumerate(prefixes_of(response, cut))
        ]

    rows, report = build_rows(config.file, states_of_row)
    report.finish(len(rows))
    states: dict[str, State] = {}
    for state in (state for row in rows for state in row):
        states.setdefault(state["prompt"], state)
    shown = f"{prompts.report}\n" if prompts.report.num_left_out else ""
    return [*states.values()], f"{shown}{report}; {len(states)} states of their responses"


def prefixes_of(response: str, cut: str) -> Iterator[str]:
    """The response up to the end of each `cut`, with something before and behind it; first none.

    >>> list(prefixes_of("So 3. Then 4. ", ". "))
    ['', 'So 3. ']
    """
    yield ""
    end = 0
    while (found := response.find(cut, end)) >= 0:
        end = found + len(cut)
        if response[:found].strip() and response[end:].strip():
            yield response[:end]


def write_states(states: Sequence[State], path: Path, config: DataConfig) -> DataConfig:
    """Write them as a prompt set, and say how it is read; lengths are those of `config`."""
    write_whole(path, "".join(json.dumps(state) + "\n" for state in states))
    limits = {key: getattr(config, key) for key in ("max_prompt_tokens", "on_long_prompt")}
    return DataConfig(path=path, parse_special_tokens=True, **limits)


def _is_read_as(prompt: Prompt, tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether its text has the prompt's tokens where special tokens in it are taken for such."""
    ways = (tokenizer.encode(prompt.text, add_special_tokens=add) for add in (False, True))
    return list(prompt.token_ids) in ways


def _without_bos(text: str, tokenizer: PreTrainedTokenizerFast) -> str:
    """A tokenizer that begins a text by itself does so again when the state is read."""
    is_added = tokenizer.bos_token is not None and (
        tokenizer.encode("")[:1] == [tokenizer.bos_token_id]
    )
    return text.removeprefix(str(tokenizer.bos_token)) if is_added else text
