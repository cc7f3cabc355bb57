"""Where a text states its final answer, and equality of answers as text."""

from __future__ import annotations

import re

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_MARKER = "####"
_ENDING = re.compile(r"(?:\s|[.,;:!。．$*]|\\[\])]|\\end\{\w+\*?\}|</answer>)*")
_MOST_BOXES = 20
_JOINT = re.compile(
    r"[\s$]*(?:,|;|,?\s*(?:\\text\s*\{\s*)?(?:and|or)\b\s*\}?)[\s$]*(?:\\?[a-zA-Z]\w*\s*=\s*)?(?:\\q?quad\s*)*"
)
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_THINKS, _THOUGHT = "<think>", "</think>"


def marked_answer(text: str) -> str | None:
    """What `text` marks as final: its last `\\boxed{...}`, else `#### ...` on its last line.

    None without a mark. Whatever earlier boxes hold, the last one counts; braces nest in it; one
    that never closes (a response cut off at its limit) is an empty answer. What is thought counts
    only where nothing is said behind it.
    """
    text = _said(text) or text
    boxes = list(_BOX.finditer(text))
    if boxes:
        end = _closing_brace(text, boxes[-1].end())
        return "" if end is None else text[boxes[-1].end() : end].strip()
    last_line = text.rstrip().rpartition("\n")[2]
    _, marker, answer = last_line.rpartition(_MARKER)
    return answer.strip() if marker else None


def stated_answer(text: str) -> str:
    """The marked answer, or else everything that is said, without white space around it."""
    marked = marked_answer(text)
    return _said(text) if marked is None else marked


def tagged_answer(text: str) -> str | None:
    """What the last `<answer>` ... `</answer>` of `text` holds; None without one.

    What is thought counts only where nothing is said behind it.
    """
    found = _TAGGED.findall(_said(text) or text)
    return found[-1].strip() if found else None


def tail(text: str) -> str:
    """What stands behind the last box of `text`; "" where nothing does, or no box closes.

    What ends the sentence or the formula that the box is in is no tail.

    >>> tail(r"so $x = \\boxed{5}$."), tail(r"so \\boxed{5}}}"), tail(r"\\boxed{5} or 6")
    ('', '}}', 'or 6')
    """
    text = _said(text) or text
    boxes = list(_BOX.finditer(text))
    if not boxes or (end := _closing_brace(text, boxes[-1].end())) is None:
        return ""
    return _ENDING.sub("", text[end + 1 :], count=1).rstrip()


def exact_reward(response: str, answer: str) -> float:
    """1.0 when both state the same non-empty text (`stated_answer`), else 0.0."""
    given, expected = stated_answer(response), stated_answer(answer)
    return float(given == expected != "")


def _said(text: str) -> str:
    """What stands behind the last `</think>`, up to a `<think>` that never ends."""
    return text.rpartition(_THOUGHT)[2].partition(_THINKS)[0].strip()


def boxed_list(text: str) -> str:
    """What the last boxes hold, where a comma, "and" or "or" alone parts them.

    >>> boxed_list(r"$x = \\boxed{2}$ or $x = \\boxed{-2}$")
    '2, -2'
    """
    text = _said(text) or text
    found: list[str] = []
    boxes, next_start = list(_BOX.finditer(text)), len(text)
    for box in reversed(boxes[-_MOST_BOXES:]):
        end = _closing_brace(text, box.end())
        if end is not None and end > next_start:  # Another box in it.
            continue
        if found and (end is None or not _JOINT.fullmatch(text[end + 1 : next_start])):
            break
        found.insert(0, "" if end is None else text[box.end() : end].strip())
        if not found[-1]:
            break
        next_start = box.start()
    return ", ".join(dict.fromkeys(found))


def _closing_brace(text: str, start: int) -> int | None:
    """Where the brace that is open at `start` closes; None where it does not."""
    depth = 1
    for token in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(token.group(), 0)
        if depth == 0:
            return token.start()
    return None
