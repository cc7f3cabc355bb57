"""Worked examples for supervised fine-tuning."""

from __future__ import annotations

from array import array
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from megatron_stare.config.data import SftDataConfig
from megatron_stare.data.cursor import EpochCursor, digest_of
from megatron_stare.data.tables import Row, RowReport, UnusableRow, build_rows, checked_text
from megatron_stare.data.templates import PromptTemplate, Question, with_end
from megatron_stare.types import TokenBatch


class ExampleSet:
    """Prompts with the response to learn, drawn epoch after epoch, each in its own seeded order.

    The response ends with the tokenizer's end-of-sequence token, and the loss is on its tokens
    alone. What the template has begun it with, such as `<think>`, is in the prompt, and left out of
    a response that has it too. Prompt and response are tokenized apart, as they are in rollouts.
    Rows that cannot be used are in `report`, by reason and by name; UserError where none is left.
    """

    report: RowReport
    num_prefilled: int
    """Rows whose response began as the template begins it, too."""

    def __init__(
        self, config: SftDataConfig, tokenizer: PreTrainedTokenizerBase, *, seed: int
    ) -> None:
        self.num_prefilled = 0
        template = PromptTemplate(
            config.template, tokenizer, parse_special_tokens=config.parse_special_tokens
        )

        def example(row: Row) -> tuple[Question, str]:
            question = template.question(row, config.prompt_field)
            worked = row.text(config.response_field)
            response = template.form.without_prefill(worked)
            self.num_prefilled += response != worked
            return question, checked_text(response, config.response_field)

        rows, self.report = build_rows(config.path, example)
        prompts = template.render([question for question, _ in rows])
        responses = with_end(tokenizer, [text for _, text in rows])
        self._examples: list[tuple[array[int], array[int]]] = []
        for (question, _), prompt, response in zip(rows, prompts, responses, strict=True):
            if isinstance(prompt, UnusableRow):
                self.report.leave_out(question.name, str(prompt))
            elif len(prompt.token_ids) + len(response) <= config.max_tokens:
                self._examples.append((prompt.token_ids, response))
            else:
                self.report.leave_out(question.name, f"over {config.max_tokens} tokens")
        self.report.finish(len(self._examples))
        self._cursor = EpochCursor(
            len(self._examples),
            seed=seed,
            shuffle=True,
            name=str(config.path),
            digest=digest_of((p.tobytes(), r.tobytes()) for p, r in self._examples),
        )

    def __len__(self) -> int:
        """Usable examples."""
        return len(self._examples)

    def draw(self, count: int) -> TokenBatch:
        """The next `count` examples, going on into further epochs."""
        examples = [self._examples[row] for _, row in self._cursor.take(count)]
        response_lengths = torch.tensor([len(response) for _, response in examples])
        return TokenBatch(
            token_ids=torch.tensor([t for example in examples for part in example for t in part]),
            prompt_lengths=torch.tensor([len(prompt) for prompt, _ in examples]),
            response_lengths=response_lengths,
            loss_mask=torch.ones(int(response_lengths.sum()), dtype=torch.bool),
        )

    def state_dict(self) -> dict[str, Any]:
        """Where drawing stands, as plain values."""
        return self._cursor.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on drawing where `state` was saved; UserError where the data is not the same."""
        self._cursor.load_state_dict(state)
