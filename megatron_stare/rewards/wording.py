"""Answers in words: `\\text{(A), (C)}`, `right triangle`, `June 20`, a remark beside a number."""

from __future__ import annotations

import re

_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_WORDING = re.compile(r"\(?\s*[a-zA-Z][a-zA-Z0-9 ',.;&()-]*")
_WORD = re.compile(r"[a-zA-Z]{4,}|[A-Z][a-zA-Z]+")
_SEPARATOR = re.compile(r"[,;&]+(?:\s*and\b)?|\band\b")
_ARTICLE = re.compile(r"^(?:the|an?)\s+(?=[a-z]{2})", re.IGNORECASE)
_JOINS = {"and", "or"}


def words_agree(given: str, expected: str) -> bool | None:
    """Whether two texts say the same, in whatever order; None where one of them is a formula.

    Letters without `\\text` are a text from four in a row on, or where the first is a capital:
    `xyz` is a product.
    """
    mine, theirs = _items(given), _items(expected)
    if mine is None or theirs is None:
        return None
    if not any(_TEXT.search(text) or _WORD.search(text) for text in (given, expected)):
        return None
    return mine == theirs


def remarks(text: str) -> set[str]:
    """Words and numbers beside a formula, which its parser leaves out: `dozen`; not `and`, `or`."""
    words = " ".join(_TEXT.findall(text)).lower()
    return {word for word in re.findall("[a-z]{2,}|[0-9]+", words) if word not in _JOINS}


def _items(text: str) -> list[str] | None:
    plain = _TEXT.sub(r" \1 ", text)
    plain = re.sub(r"[\"`“”]|''|\\?\s*(?=&)", " ", plain).strip()
    if not _WORDING.fullmatch(plain):
        return None
    return sorted(filter(None, map(_item, _SEPARATOR.split(plain))))


def _item(text: str) -> str:
    text = " ".join(text.strip(" .").split())
    text = _ARTICLE.sub("", re.sub(r"^\(\s*([a-zA-Z]+)\s*\)$", r"\1", text))
    return text if len(text) == 1 else re.sub("(?<=[a-z]{3}[^sui])s$", "", text.casefold())
