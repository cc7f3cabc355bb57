"""Units, currencies and degrees around a number: what is dropped, and when two of them differ."""

from __future__ import annotations

import re

_CURRENCY = {
    "dollar": r"(?:US|USD)?\s*(?:\\\$|\$|\\textdollar)|USD|US dollars?|dollars?",
    "euro": r"€|\\euro|\\text\s*\{\s*€\s*\}|EUR|euros?",
    "pound sterling": r"£|\\pounds|\\text\s*\{\s*£\s*\}|GBP",
    "yen": r"[¥￥]|JPY|yen",
    "rupee": r"₹|Rs\.?|rupees?",
    "cent": r"¢|cents?",
}
_MEASURES = {
    "mm": r"mm|millimet(?:er|re)s?", "cm": r"cms?|centimet(?:er|re)s?",
    "m": r"m|met(?:er|re)s?", "km": r"kms?|kilomet(?:er|re)s?",
    "in": r"in|inch|inches", "ft": r"ft|foot|feet", "yd": r"yds?|yards?", "mi": r"mi|miles?",
    "mg": r"mg|milligrams?", "g": r"g|grams?", "kg": r"kgs?|kilograms?", "lb": r"lbs?|pounds?",
    "oz": r"oz|ounces?", "s": r"s|secs?|seconds?",
    "min": r"mins?|minutes?", "h": r"h|hrs?|hours?", "day": r"days?",
    "week": r"weeks?", "month": r"months?", "year": r"years?|yrs?",
    "ml": r"m[lL]|millilit(?:er|re)s?", "l": r"[lL]|lit(?:er|re)s?",
    "mph": r"mph|mi(?:les?)?/(?:h|hr|hour)",
    "km/h": r"kmh|kph|k(?:m|ilomet(?:er|re)s?)/(?:h|hr|hour)",
    "m/s": r"m(?:et(?:er|re)s?)?/s(?:ec(?:ond)?)?",
    "degree": r"\^\s*\{?\s*\\circ\s*\}?|\\degree|degs?|degrees?", "radian": r"rad|radians?",
}  # fmt: skip
_KNOWN = [
    (unit, re.compile(rf"(?:{spelling})\.?")) for unit, spelling in (_CURRENCY | _MEASURES).items()
]
_NO_UNITS = frozenset(
    [
        "and",
        "or",
        "to",
        "not",
        "if",
        "when",
        "mod",
        "modulo",
        "base",
        "plus",
        "minus",
        "times",
        "divided",
        "over",
        "squared",
        "cubed",
        "of",
        "choose",
        "is",
        "for",
        "percent",
        "pi",
        "sqrt",
        "factorial",
        "than",
        "less",
        "more",
        "between",
        "but",
        "where",
        "with",
        "infinity",
        "half",
        "third",
        "quarter",
        "dozen",
        "hundred",
        "thousand",
        "million",
        "billion",
        "trillion",
        "from",
        "by",
        "equals",
        "until",
        "sin",
        "cos",
        "tan",
        "log",
        "ln",
        "max",
        "gcd",
        "lcm",
        "union",
        "pm",
        "am",
        "noon",
        "midnight",
        "no",
    ]
)
_SIGN = "|".join(rf"(?:{_CURRENCY[unit]})" for unit in ("dollar", "euro", "pound sterling", "yen"))
_BEFORE = re.compile(rf"^([-+]?)\s*({_SIGN}|{_CURRENCY['rupee']})\s*(?=[-+0-9.({{\\])")
_NAMED = re.compile(r"^\\text\s*\{[^{}]*(?:[:=]|\b(?:is|are|equals))\s*\}\s*")
_DEGREE_SIGN = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-zA-Z]))\s*[CF]?")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_PERCENT = re.compile(
    r"\s*(?:\\?%|(?<=[0-9}\s])(?:\\text\s*\{\s*)?per ?cent\s*\}?)\s*$|^\s*\\?%\s*(?=[0-9])"
)
_POWER = r"(?:\s*\^\s*(?:\{\s*[-0-9]+\s*\}|[0-9]))?"
_RAISED = [
    (re.compile(r"^(?:square|sq\.?)\s|\ssquared$"), "2"),
    (re.compile(r"^(?:cubic|cu\.?)\s|\scubed$"), "3"),
]
_WORDS = r"[a-zA-Z]+\.?(?:[ -][a-zA-Z]+\.?)*"
_BARE = rf"(?:(?:sq|cu)\.?\s)?{_WORDS}{_POWER}(?:\s*/\s*{_WORDS}{_POWER})?"
_TEXT = (
    rf"\\text\s*\{{(?P<words>[^{{}}0-9]*)\}}{_POWER}"
    rf"(?:\s*/\s*\\text\s*\{{[^{{}}]*\}}{_POWER})?"
)
_AFTER = re.compile(
    rf"(?<=[0-9a-zA-Z}})\].|%'])\s*(?P<unit>{_TEXT}|[€£¥¢₹]"
    rf"|(?:(?<=[0-9}})\].|%']\s)|(?<=\\pi\s)|(?<=[0-9]))\(?(?P<bare>{_BARE})\)?)"
    r"\s*\.?$"
)


def without_unit(text: str) -> tuple[str, str]:
    """The quantity, and its unit in one spelling; "" where it has none that is known here.

    >>> without_unit("10 cm^2"), without_unit("€10"), without_unit("12 balls")
    (('10', 'cm^2'), ('10', 'euro'), ('12', ''))
    """
    text = _NAMED.sub("", text)
    if not _TRIGONOMETRIC.search(text):
        return _split(text)
    return _DEGREE_SIGN.sub(r" \\frac{\\pi}{180}", text), ""


def without_percent(text: str) -> tuple[str, bool]:
    """The number before a percent sign at the end, and whether there is one."""
    number = _PERCENT.sub("", text)
    return number, number != text


def units_differ(one: str, other: str) -> bool:
    """Whether both are known, and different: `5 cm` is not `5 m`; `5` may be either."""
    return bool(one and other) and one != other


def _split(text: str) -> tuple[str, str]:
    currency = _BEFORE.match(text)
    if currency:
        text = currency[1] + text[currency.end() :]
    text = text.replace(r"\$", "").replace("$", "").strip()
    unit = _AFTER.search(text)
    if unit and _is_unit(unit):
        text = text[: unit.start()].rstrip()
        name = _name(unit["unit"])
    elif degrees := _DEGREE_SIGN.search(text):
        text, name = _DEGREE_SIGN.sub("", text), "degree" if degrees.end() == len(text) else ""
    else:
        name = ""
    return text, _name(currency[2]) if currency else name


def _is_unit(match: re.Match[str]) -> bool:
    named = re.sub(r"(?<=[a-zA-Z]) (?:squared|cubed)", "", match["bare"] or match["words"] or "")
    words = re.findall(r"[a-zA-Z]+", named)
    if match["bare"] is None:
        return not any(word.lower() in _NO_UNITS for word in words)
    known = bool(_name(match["bare"]))
    if match.string[match.start("unit") - 1].isdigit() and not known:
        return False
    if any(word.lower() in _NO_UNITS for word in words):
        return False
    return known or all(len(word) > 2 for word in words) or match["bare"].endswith("units")


def _name(unit: str) -> str:
    """`\\text{ square centimeters}` as `cm^2`."""
    plain = re.sub(r"\\text\b|[{}()]", " ", unit).strip()
    power = re.search(r"\^\s*([-0-9]+)$", plain)
    exponent = power[1] if power else ""
    plain = plain[: power.start()].strip() if power else plain
    for words, raised in _RAISED:
        if words.search(plain):
            plain, exponent = words.sub("", plain, count=1).strip(), raised
    plain = re.sub(r"\s*/\s*|\s+per\s+", "/", plain)
    for name, spelling in _KNOWN:
        if spelling.fullmatch(plain):
            return f"{name}^{exponent}" if exponent else name
    return ""
