"""Congruences: residues and the modulus that they belong to."""

from __future__ import annotations

import re
from typing import NamedTuple

_MODULUS = re.compile(
    r"(?:\s|,|\\,)*(?P<operator>\\pmod|\\[bp]?mod(?![a-z])|\\text\s*\{\s*\(?\s*mod(?:ulo)?\s*\}|"
    r"(?:\\text\s*\{\s*)?\(?\s*(?<![a-z\\])mod(?:ulo)?(?![a-z]))"
    r"[\s{(]*(?P<modulus>[0-9]+|[a-zA-Z])[\s)}]*$"
)
_NAME = re.compile(r"^(.*?)\s*(\\equiv(?![a-z])|=)\s*")
_AND = re.compile(r",|;|\\text\s*\{\s*,?\s*(?:or|and)\s*\}|(?<![a-z])(?:or|and)(?![a-z])|\\lor")


class Congruence(NamedTuple):
    """`name \\equiv residues (mod modulus)`; the name may go without saying."""

    name: str
    residues: frozenset[str]
    modulus: str
    is_statement: bool  # Else `17 \\bmod 5`, an operation.


def congruences_agree(given: str, expected: str) -> bool | None:
    """Whether the residues and the modulus are the same; None where neither is a congruence.

    A residue alone is enough where the reference states the modulus, and the reverse; then it is
    the residue itself that counts, not another member of its class.
    """
    mine, theirs = _congruence(given), _congruence(expected)
    if mine and theirs:
        names = {mine.name, theirs.name} - {""}
        return len(names) < 2 and mine[1:3] == theirs[1:3]
    if theirs:
        return _bare(given) in (_bare(expected), theirs.residues)
    if mine:
        written = _bare(given)
        return mine.is_statement and written == mine.residues == _bare(expected)
    return None


def _congruence(text: str) -> Congruence | None:
    match = _MODULUS.search(text)
    if not match:
        return None
    body, modulus = text[: match.start()].rstrip("( "), match["modulus"]
    equals = _NAME.match(body)
    name = equals[1].replace(" ", "") if equals else ""
    is_statement = bool(equals and equals[2] != "=") or match["operator"] == r"\pmod"
    residues = frozenset(_reduced(residue, modulus) for residue in _bare(body))
    return Congruence(name, residues, modulus, is_statement or "(" in match[0])


def _bare(text: str) -> frozenset[str]:
    """The residues as they are written."""
    match = _MODULUS.search(text)
    body = text[: match.start()] if match else text
    body = _NAME.sub("", body.strip("( "), count=1)
    residues = []
    body = re.sub(rf"\\pmod\s*\{{?{match['modulus']}\}}?", "", body) if match else body
    for part in _AND.split(body):
        part = _NAME.sub("", part.replace(" ", ""), count=1)
        signed = re.fullmatch(r"\\pm\{?(.+?)\}?", part)
        residues += [signed[1], f"-{signed[1]}"] if signed else [part]
    return frozenset(filter(None, residues))


def _reduced(residue: str, modulus: str) -> str:
    if re.fullmatch("-?[0-9]{1,50}", residue) and re.fullmatch("[0-9]{1,50}", modulus):
        return str(int(residue) % int(modulus)) if int(modulus) else residue
    return residue
