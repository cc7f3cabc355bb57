"""Turn recorded responses to MATH problems into a run of the replay engine.

    python examples/recorded_math/make_data.py [RECORDED] [--out FOLDER]

RECORDED is a JSONL file of {"problem", "answer", "responses", "scores"}: several responses to each
problem and whether each was right; by default `shared/data/math_recorded_rollouts.jsonl` beside the
checkout. Into FOLDER (default `out/` beside this file) go

    model/         Hugging Face folder without weights: a Qwen3 of about a million parameters, and
                   a byte-level BPE tokenizer trained on the recorded text
    prompts.jsonl  {"prompt", "answer"}: the problems with right and wrong responses, no others
    replay.jsonl   {"prompt", "response"}: their responses
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config

from megatron_stare.errors import UserError
from megatron_stare.system.folders import write_whole

HERE = Path(__file__).parent
RECORDED = HERE.parents[1].parent / "shared" / "data" / "math_recorded_rollouts.jsonl"

PAD, EOS = "<pad>", "<eos>"  # tokens 0 and 1
VOCAB_SIZE = 2048
MODEL_SHAPE: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 384,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "dtype": "float32",
    "pad_token_id": 0,
    "eos_token_id": 1,
}


def read_recorded(path: Path) -> list[dict[str, Any]]:
    """The recorded problems; UserError where the file is not one of them."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot read recorded responses ({error.strerror})") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            pairs = list(zip(row["responses"], row["scores"], strict=True))
            rows.append({"problem": row["problem"], "answer": row["answer"], "pairs": pairs})
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}:{number}: expected problem, answer, and responses with as many scores; "
                f"found {type(error).__name__}: {error}"
            ) from None
    return rows


def is_mixed(row: dict[str, Any]) -> bool:
    """Whether some responses are right and some wrong, so that there is something to learn."""
    return len({bool(score) for _, score in row["pairs"]}) == 2


def prompt_of(row: dict[str, Any]) -> str:
    """The rendered prompt: the problem, and an empty line before the response."""
    return row["problem"] + "\n\n"


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `VOCAB_SIZE` tokens: every text comes back as it went in."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS)


def write_rows(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """One JSON object a line."""
    write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))


def make_data(recorded: Path, folder: Path) -> int:
    """Write everything into `folder`; returns the number of mixed problems.

    Raises:
        UserError: `recorded` is missing, malformed, or without a mixed problem.
    """
    rows = read_recorded(recorded)
    mixed = [row for row in rows if is_mixed(row)]
    if not mixed:
        raise UserError(f"{recorded}: no problem has both right and wrong responses, expected some")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(
        text
        for row in rows
        for text in (prompt_of(row), *(response for response, _ in row["pairs"]))
    )
    tokenizer.save_pretrained(folder / "model")
    Qwen3Config(**MODEL_SHAPE, vocab_size=len(tokenizer)).save_pretrained(folder / "model")
    write_rows(
        folder / "prompts.jsonl",
        ({"prompt": prompt_of(row), "answer": row["answer"]} for row in mixed),
    )
    write_rows(
        folder / "replay.jsonl",
        (
            {"prompt": prompt_of(row), "response": response}
            for row in mixed
            for response, _ in row["pairs"]
        ),
    )
    return len(mixed)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the data of the replay example.")
    parser.add_argument("recorded", type=Path, nargs="?", default=RECORDED)
    parser.add_argument("--out", type=Path, default=HERE / "out")
    arguments = parser.parse_args()
    try:
        count = make_data(arguments.recorded, arguments.out)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"{arguments.out}: {count} problems with right and wrong responses")


if __name__ == "__main__":
    main()
