"""Small prompts, samples and groups for rollout tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from megatron_stare.config.data import DataConfig
from megatron_stare.data.prompts import PromptSet
from megatron_stare.types import Group, Prompt, Reward, Sample
from tests.models import EOS_ID, make_tokenizer

TOKENIZER = make_tokenizer()


def make_prompt(text: str, *, answer: str = "yes", uid: str | None = None) -> Prompt:
    return Prompt(uid or text, f"test:{text}", text, tuple(TOKENIZER.encode(text)), answer)


def make_sample(prompt: Prompt, index: int, text: str, **fields) -> Sample:
    token_ids = fields.get("token_ids", (*TOKENIZER.encode(text), EOS_ID))
    settings = {
        "token_ids": token_ids,
        "logprobs": (-0.5,) * len(token_ids),
        "loss_mask": (True,) * len(token_ids),
        "finish_reason": "stop",
        "weight_versions": (3,) * len(token_ids),
        "seconds": 0.25,
    }
    return Sample(prompt, index, text, **(settings | fields))


def make_group(prompt: Prompt, verdicts: Sequence[float]) -> Group:
    samples = tuple(
        make_sample(prompt, index, "yes" if verdict == 1 else "no")
        for index, verdict in enumerate(verdicts)
    )
    return Group(prompt, samples, tuple(Reward(v, v, None, 0.0) for v in verdicts))


def write_jsonl(path: Path, rows: Sequence[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_prompt_set(folder: Path, texts: Sequence[str], *, answer: str = "yes") -> PromptSet:
    """Prompts that are drawn in the order given, over and over."""
    path = write_jsonl(folder / "prompts.jsonl", [{"prompt": t, "answer": answer} for t in texts])
    return PromptSet(DataConfig(path=path, shuffle=False), TOKENIZER, seed=0)
