"""Prompts with given responses: worked examples to learn, and pairs to prefer."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerFast

from megatron_stare.config.data import WorkedDataConfig
from megatron_stare.data.drawn import DrawnSet
from megatron_stare.data.tables import Row, UnusableRow, build_rows, checked_text
from megatron_stare.data.templates import PromptTemplate, Question, with_end
from megatron_stare.types import RolloutBatch, TokenBatch

Worked = tuple[array[int], ...]
"""Token ids of a prompt, and of each response to it."""


class WorkedSet(DrawnSet):
    """Prompts with given responses.

    A response ends with the tokenizer's end-of-sequence token, and the loss is on its tokens alone.
    What the template has begun it with, such as `<think>`, is in the prompt, and left out of a
    response that has it too. Prompt and response are tokenized apart, as they are in rollouts.
    Rows that cannot be used are in `report`, by reason and by name; UserError where none is left.
    """

    def __init__(
        self, config: WorkedDataConfig, tokenizer: PreTrainedTokenizerFast, *, seed: int
    ) -> None:
        template = PromptTemplate(
            config.template, tokenizer, parse_special_tokens=config.parse_special_tokens
        )
        fields = [*config.response_fields.values()]

        def worked(row: Row) -> tuple[Question, list[str]]:
            question = template.question(row, config.prompt_field)
            given = [_response(row, field, config.prompt_field) for field in fields]
            responses = [template.form.without_prefill(text) for text in given]
            self.num_prefilled += responses != given
            if len(set(responses)) < len(responses):
                raise UnusableRow(f"fields {' and '.join(map(repr, fields))} are the same")
            pairs = zip(responses, fields, strict=True)
            return question, [checked_text(text, field) for text, field in pairs]

        rows, report = build_rows(config.path, worked)
        prompts = template.render([question for question, _ in rows])
        responses = iter(with_end(tokenizer, [text for _, texts in rows for text in texts]))
        fitting: list[Worked] = []
        for (question, texts), prompt in zip(rows, prompts, strict=True):
            tokens = [next(responses) for _ in texts]
            if isinstance(prompt, UnusableRow):
                report.leave_out(question.name, str(prompt))
            elif len(prompt.token_ids) + max(map(len, tokens)) <= config.max_tokens:
                fitting.append((prompt.token_ids, *tokens))
            else:
                report.leave_out(question.name, f"over {config.max_tokens} tokens")
        super().__init__(fitting, report, seed=seed)


class ExampleSet(WorkedSet):
    """Worked examples for supervised fine-tuning."""

    def draw(self, count: int) -> TokenBatch:
        """The next `count` examples."""
        return TokenBatch(*_flat(self.take(count)))


class PairSet(WorkedSet):
    """Pairs of a better and a worse response."""

    def draw(self, count: int) -> RolloutBatch:
        """The next `count` pairs; see `batch_of_pairs`."""
        return batch_of_pairs(self.take(count))

    def all(self) -> RolloutBatch:
        """Every pair once, in the file's order."""
        return batch_of_pairs(self._rows)


def batch_of_pairs(pairs: Sequence[Worked]) -> RolloutBatch:
    """A group of two samples for each pair: the better one with reward and verdict 1, the other 0.

    No engine has sampled them, so that `rollout_logprobs` are NaN.
    """
    token_ids, prompt_lengths, response_lengths, loss_mask = _flat(pairs)
    rewards = torch.tensor([1.0, 0.0]).repeat(len(pairs))
    return RolloutBatch(
        *(token_ids, prompt_lengths, response_lengths, loss_mask),
        rollout_logprobs=torch.full_like(loss_mask, torch.nan, dtype=torch.float32),
        rewards=rewards,
        verdicts=rewards,
        group_ids=torch.arange(len(pairs)).repeat_interleave(2),
    )


def _flat(rows: Sequence[Worked]) -> tuple[torch.Tensor, ...]:
    """The fields of a `TokenBatch`, with a sample for each response."""
    samples = [(prompt, response) for prompt, *responses in rows for response in responses]
    response_lengths = torch.tensor([len(response) for _, response in samples])
    return (
        torch.tensor([token for sample in samples for part in sample for token in part]),
        torch.tensor([len(prompt) for prompt, _ in samples]),
        response_lengths,
        torch.ones(int(response_lengths.sum()), dtype=torch.bool),
    )


def _response(row: Row, key: str, prompt_key: str) -> str:
    """The text of a field: its own, or that of the last of chat messages, an assistant's.

    Messages before it, as some sets have them, are those that the row asks.
    """
    value = row.get(key)
    if not isinstance(value, list):
        return row.text(key)
    match value:
        case [*before, {"role": "assistant", "content": str(text)}]:
            asked = row.get(prompt_key)
            asked = asked if isinstance(asked, list) else [{"role": "user", "content": asked}]
            if before and before != asked:
                raise UnusableRow(f"field {key!r} answers something else than {prompt_key!r} asks")
            return checked_text(text, key)
    raise UnusableRow(f"field {key!r} holds no messages that end with the assistant's")
