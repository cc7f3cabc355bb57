"""Loading the tokenizer of a Hugging Face folder: the one that its tokenizer.json describes."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from megatron_stare.data.probes import PROBES, encodable, first_difference, probes_of
from megatron_stare.errors import UserError
from megatron_stare.system.json_file import read_object
from megatron_stare.system.reading import check_files

_FILE = "tokenizer.json"

_AS_THE_FILE_SAYS: dict[str, Any] = {
    "clean_up_tokenization_spaces": False,
    "split_special_tokens": False,
    "fix_mistral_regex": False,
}
"""Settings of tokenizer_config.json that would have text differ from what tokenizer.json says."""

_BYTES = (
    set(pre_tokenizers.ByteLevel.alphabet()),
    {f"<0x{byte:02X}>" for byte in range(256)},
)
"""How vocabularies write single bytes; one that has them all can write every text."""


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The folder's tokenizer, which encodes and decodes as its tokenizer.json does.

    Special tokens and chat template are those of tokenizer_config.json and the files beside it. The
    class that it names is not used: by it, transformers 5 builds another pre-tokenizer, which loses
    every space of a byte-level vocabulary, and of a tokenizer.model mostly another tokenizer.

        tokenizer = load_tokenizer(Path("models/Llama-3.1-8B-Instruct"))

    Raises:
        UserError: there is no tokenizer.json, it is malformed or without an end of sequence, what
            is loaded is not what it says, or it loses text though it has a token for every byte.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, expected a Hugging Face model folder")
    check_files(folder)
    path = folder / _FILE
    if not path.is_file():
        raise UserError(
            f"{folder}: no tokenizer.json, expected one: tokenizers of other files, or in Python, "
            "are not used (docs/tokens.md says how to write it)"
        )
    try:
        tokenizer = _load(folder)
    except Exception as error:  # Whatever a malformed file makes transformers raise.
        for name in (_FILE, "tokenizer_config.json"):
            if (folder / name).exists(follow_symlinks=False):
                read_object(folder / name, "that of a tokenizer")
        reason = f"{type(error).__name__}: {str(error).strip().partition('\n')[0]}"
        raise UserError(f"{folder}: no usable tokenizer ({reason})") from error
    eos_token_id(tokenizer)
    file = Tokenizer.from_file(str(path))
    file.no_truncation()
    file.no_padding()
    _check_end(path, file, tokenizer)
    _check_against(path, file, tokenizer)
    _check_gives_back(path, file)
    return tokenizer


def tokenizer_identity(tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    """Digests by which two runs can tell whether their texts and tokens mean the same.

    Returns:
        `tokenizer` (vocabulary, rules, end of sequence) and `chat_template`, in hexadecimal.
    """
    # Left by its last call, and no part of it.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    content = tokenizer.backend_tokenizer.to_str()
    return {
        "tokenizer": _digest(f"{tokenizer.eos_token_id} {content}"),
        "chat_template": _digest(json.dumps(tokenizer.chat_template, sort_keys=True)),
    }


def check_vocabulary(tokenizer: PreTrainedTokenizerFast, vocab_size: int) -> None:
    """UserError where the tokenizer has token ids that a model of `vocab_size` rows has not."""
    largest = max(tokenizer.get_vocab().values())
    if largest >= vocab_size:
        raise UserError(
            f"the tokenizer {tokenizer.name_or_path!r} has token ids up to {largest}, expected "
            f"ids below config.json's vocab_size={vocab_size}"
        )


def eos_token_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The token that ends a response; UserError where the tokenizer has none."""
    if not isinstance(tokenizer.eos_token_id, int):
        raise UserError(
            f"the tokenizer {tokenizer.name_or_path!r} has no eos_token, expected one in its "
            "tokenizer_config.json: responses end with it"
        )
    return tokenizer.eos_token_id


def _load(folder: Path) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(
        folder, local_files_only=True, **_AS_THE_FILE_SAYS
    )
    if tokenizer.eos_token is None:
        _take_special_tokens(tokenizer, folder)
    return tokenizer


def _take_special_tokens(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Special tokens that no file names, and the model's own class of tokenizers has."""
    try:
        by_class = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception:  # Of a config.json or a class that transformers does not know.
        return
    vocabulary = tokenizer.get_vocab()
    for name, token in by_class.special_tokens_map.items():
        if getattr(tokenizer, name, None) is None and token in vocabulary:
            setattr(tokenizer, name, token)


def _check_end(path: Path, file: Tokenizer, tokenizer: PreTrainedTokenizerFast) -> None:
    """UserError where the end of sequence is a token that transformers has just made."""
    if file.token_to_id(str(tokenizer.eos_token)) is None:
        raise UserError(
            f"{path}: has no token {tokenizer.eos_token!r}, which is the eos_token of the files "
            "beside it; expected one that it has: a model has never seen another"
        )


def _check_against(path: Path, file: Tokenizer, tokenizer: PreTrainedTokenizerFast) -> None:
    """UserError where the tokenizer does not encode and decode as the file does."""
    # Others may have been added by tokenizer_config.json.
    probes, expected = encodable(
        probes_of(file.get_added_tokens_decoder()),
        lambda text: file.encode(text, add_special_tokens=False).ids,
    )
    found = [tokenizer.encode(text, add_special_tokens=False) for text in probes.values()]
    if difference := first_difference(probes, found, expected):
        raise UserError(
            f"{path}: the tokenizer that transformers makes of it and of tokenizer_config.json is "
            f"another one; {difference}"
        )
    for kind, ids in zip(probes, expected, strict=True):
        text, wanted = tokenizer.decode(ids), file.decode(ids, skip_special_tokens=False)
        if text != wanted:
            raise UserError(
                f"{path}: the tokenizer that transformers makes of it decodes {kind} to "
                f"{text!r:.60}, expected {wanted!r:.60}"
            )


def _check_gives_back(path: Path, file: Tokenizer) -> None:
    """UserError where a vocabulary that can write every byte does not decode to what it encoded.

    But for what its normalizer changes, and a space in front.
    """
    vocabulary = file.get_vocab().keys()
    if not any(bytes_ <= vocabulary for bytes_ in _BYTES):
        return
    for kind, text in PROBES.items():
        ids = file.encode(text, add_special_tokens=False).ids
        found = file.decode(ids, skip_special_tokens=False)
        normalized = file.normalizer.normalize_str(text) if file.normalizer else text
        if _plain(found) not in (_plain(text), _plain(normalized)):
            raise UserError(
                f"{path}: decodes {kind} to {found!r:.60}, expected {text!r:.60}, which it has "
                "encoded; its pre-tokenizer or its decoder loses text"
            )


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).removeprefix(" ")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
