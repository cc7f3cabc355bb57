"""Answers of two signs, as the values that they stand for."""

from __future__ import annotations

import re

from megatron_stare.rewards.spelling import closing

_BRACES = re.compile(r"\s*\\\{(.*)\\\}\s*")
_NAME = re.compile(r"^[^=(]*=")


def both_signs(text: str) -> str:
    """`\\{0, 1 \\pm \\sqrt{5}\\}` as `0, 1 + \\sqrt{5}, 1 - \\sqrt{5}`.

    A text without such a sign, or with two in one member, stays as it is.
    """
    if r"\pm" not in text:
        return text
    braces = _BRACES.fullmatch(text)
    members = list(_members(braces[1] if braces else text))
    if any(member.count(r"\pm") > 1 for member in members):
        return text
    values: list[str] = []
    for member in members:
        before, sign, after = _NAME.sub("", member).partition(r"\pm")
        values += [f"{before}+{after}", f"{before}-{after}"] if sign else [member]
    return ",".join(re.sub(r"^(\(?)\s*\+", r"\1", value.strip()) for value in values)


def _members(text: str) -> list[str]:
    """What the commas outside of brackets part."""
    members, start, index = [], 0, 0
    while index < len(text):
        closer = {"{": "}", "(": ")", "[": "]"}.get(text[index])
        if closer:
            index = closing(text, index + 1, text[index], closer) or index
        elif text[index] == ",":
            members.append(text[start:index])
            start = index + 1
        index += 1
    return [*members, text[start:]]
