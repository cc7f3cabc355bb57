"""Loading the tokenizer of a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from megatron_stare.errors import UserError

_VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer; UserError where there is none, or one without an end of sequence."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, expected a Hugging Face model folder")
    # From a config.json alone transformers makes a tokenizer without a vocabulary.
    if not any((folder / name).is_file() for name in _VOCABULARY_FILES):
        raise UserError(f"{folder}: no tokenizer, expected one of {', '.join(_VOCABULARY_FILES)}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # Whatever a malformed file makes transformers raise.
        reason = f"{type(error).__name__}: {str(error).strip().partition('\n')[0]}"
        raise UserError(f"{folder}: no usable tokenizer ({reason})") from error
    eos_token_id(tokenizer)
    return tokenizer


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    """UserError where the tokenizer has token ids that a model of `vocab_size` rows has not."""
    largest = max(tokenizer.get_vocab().values())
    if largest >= vocab_size:
        raise UserError(
            f"the tokenizer {tokenizer.name_or_path!r} has token ids up to {largest}, expected "
            f"ids below config.json's vocab_size={vocab_size}"
        )


def eos_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends a response; UserError where the tokenizer has none."""
    if not isinstance(tokenizer.eos_token_id, int):
        raise UserError(
            f"the tokenizer {tokenizer.name_or_path!r} has no eos_token, expected one in its "
            "tokenizer_config.json: responses end with it"
        )
    return tokenizer.eos_token_id
