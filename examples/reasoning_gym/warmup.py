"""A model that has seen both tasks and solves a part of them: what the run starts from.

    python -m examples.reasoning_gym.warmup [FOLDER]

writes into FOLDER (default `out/` beside this file)

    model/     Hugging Face folder without weights: a Qwen3 of 0.6 M parameters that reads bytes
    sft.jsonl  {"prompt", "response"}: problems of a seed of their own with their answers
    warmup/    the run of `megatron-stare sft` on them; `hf/final` is the model

Nothing is downloaded: the problems are generated, as those of the run itself are.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config

from examples.tiny_addition.make_data import EOS, MODEL_SHAPE, PAD, write_rows
from megatron_stare.cli import main as megatron_stare
from megatron_stare.config.commands import TrainConfig
from megatron_stare.config_io import load_config
from megatron_stare.data.tasks import generate_problems

HERE = Path(__file__).parent
SEED, NUM_PROBLEMS = 100, 4_000


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte: any task's text."""
    names = [PAD, EOS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, padding_side="left"
    )


def make_data(folder: Path) -> None:
    """The untrained model, and worked problems of the sources of train.yaml."""
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder / "model")
    Qwen3Config(**MODEL_SHAPE, vocab_size=len(tokenizer)).save_pretrained(folder / "model")
    rows = []
    for name, source in load_config(TrainConfig, HERE / "train.yaml").data.sources.items():
        ours = source.model_copy(update={"seed": SEED, "size": NUM_PROBLEMS})
        for row in generate_problems(ours, name).rows:
            rows.append({"prompt": row.fields["question"], "response": row.fields["answer"]})
    Random(SEED).shuffle(rows)
    write_rows(folder / "sft.jsonl", rows)


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "out"
    make_data(folder)
    paths = (f"model.path={folder}/model", f"data.path={folder}/sft.jsonl")
    return megatron_stare(["sft", str(HERE / "sft.yaml"), f"run.dir={folder}/warmup", *paths])


if __name__ == "__main__":
    sys.exit(main())
