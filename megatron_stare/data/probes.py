"""Texts by which two tokenizers are told apart.

A tokenizer that is rebuilt with another pre-tokenizer than its file describes fails on some kind of
text alone, and silently: spaces are gone, Chinese is, digits are grouped otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

PROBES: dict[str, str] = {
    "words": "How are you doing? I'm fine, THANKS; they've left.",
    "spaces": " a  b   c    d\t\te ",
    "newlines": "a\nb\n\nc\r\n\n  d\n",
    "digits": "7 42 365 2048 31415 271828 0.5 1,234,567",
    "Chinese": "你好，世界。求方程的解。",
    "other scripts": "Привет, мир! こんにちは शुभ مرحبا Ünïcödé e\u0301",
    "emoji": "🤖 👩‍👩‍👧 ✓ ½",
    "code": "def f(x):\n\treturn {'a': [x**2, -1]}  # <b>&amp;\n        if x != 0:",
    "LaTeX": r"so $x_{10} \le \frac{1}{2}$, hence \boxed{\sqrt{3}}.",
}
"""Kinds of text, each with one."""

_IDS_SHOWN = 8


def probes_of(added: Mapping[int, Any]) -> dict[str, str]:
    """`PROBES`, and a text with every special token of these, which are given by their ids."""
    special = [token.content for _, token in sorted(added.items()) if token.special]
    return {**PROBES, "special tokens": "".join(f"a{token} b" for token in special)}


def encodable(
    probes: dict[str, str], encode: Callable[[str], list[int]]
) -> tuple[dict[str, str], list[list[int]]]:
    """The probes that a vocabulary has tokens for, and these; some have no unknown token."""
    encoded: dict[str, list[int]] = {}
    for kind, text in probes.items():
        with suppress(Exception):  # What a model of the tokenizers library raises.
            encoded[kind] = encode(text)
    return {kind: probes[kind] for kind in encoded}, list(encoded.values())


def first_difference(
    probes: dict[str, str], found: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]
) -> str | None:
    """Where token ids of the probes first differ, as part of a message; None where they do not."""
    for (kind, text), ids, wanted in zip(probes.items(), found, expected, strict=True):
        if list(ids) != list(wanted):
            at = next(
                (i for i, pair in enumerate(zip(ids, wanted, strict=False)) if pair[0] != pair[1]),
                min(len(ids), len(wanted)),
            )
            part = slice(at, at + _IDS_SHOWN)
            return (
                f"{kind}: {text!r:.60} becomes {len(ids)} tokens, expected {len(wanted)}; from "
                f"token {at} on {list(ids[part])}, expected {list(wanted[part])}"
            )
    return None
