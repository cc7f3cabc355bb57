"""A recipe on this machine's CPU: the same config, with its model, lengths and layout shrunk.

    python examples/smoke.py examples/qwen2.5_math_7b [section.key=value ...]

makes a network of the recipe's family with 2 layers of 64 channels, a tokenizer of bytes and four
problems, and takes one step with them. What is replaced is printed; everything else is the
recipe's own: data template, dynamic sampling off because a random network solves nothing, engine
`embedded` because there are no servers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from megatron_stare.cli import main as megatron_stare

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
END = "<|end|>"
CHAT_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def write_model(recipe: Path, folder: Path) -> None:
    """config.json of the recipe's family, and a tokenizer of bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    config = json.loads((recipe / "model" / "config.json").read_text())
    end = fast.convert_tokens_to_ids(END)
    # Some families' tokenizers add tokens of their own when they are read.
    config |= SIZES | {"vocab_size": 512, "bos_token_id": None, "eos_token_id": end}
    (folder / "config.json").write_text(json.dumps(config))


def write_problems(path: Path) -> None:
    rows = [{"prompt": f"{a}+{a}=", "answer": str(2 * a)} for a in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def shrunk(folder: Path) -> list[str]:
    """Overrides that put a recipe on a CPU."""
    return [
        f"run.dir={folder / 'run'}",
        f"model.path={folder / 'model'}",
        "model.random_init=true",
        "model.dtype=float32",
        "parallel={}",
        f"data.path={folder / 'problems.jsonl'}",
        "rollout.engine=embedded",
        "rollout.servers={}",
        "rollout.partial_rollouts=false",
        "rollout.oversampling=1",
        "rollout.dynamic_sampling=false",
        "rollout.prompts_per_step=2",
        "rollout.samples_per_prompt=2",
        "rollout.max_response_tokens=16",
        "reward.workers=1",
        "reward.overlong_buffer_tokens=0",
        "train.steps=1",
        "checkpoint.every=0",
        "eval={}",
        "log.progress=false",
    ]


def smoke(recipe: Path, folder: Path, overrides: Sequence[str] = ()) -> int:
    """Take one step of a recipe in `folder`; the exit code of `megatron-stare train`."""
    (folder / "model").mkdir(parents=True, exist_ok=True)
    write_model(recipe, folder / "model")
    write_problems(folder / "problems.jsonl")
    replaced = [*shrunk(folder), *overrides]
    print("megatron-stare train", recipe / "train.yaml", *replaced, flush=True)
    return megatron_stare(["train", str(recipe / "train.yaml"), *replaced])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("recipe", type=Path, help="a folder of examples/")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--out", type=Path, default=Path("runs/smoke"))
    arguments = parser.parse_args()
    folder = arguments.out / arguments.recipe.name
    sys.exit(smoke(arguments.recipe, folder, arguments.overrides))


if __name__ == "__main__":
    main()
