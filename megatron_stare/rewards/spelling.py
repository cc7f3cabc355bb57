"""One spelling of an answer: the typography of people and models as LaTeX for math-verify.

Only what means the same in every context is rewritten. Numbers are `numerals`', units `units`'.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable

Rewrite = Callable[[str], str]

_SYMBOLS = {
    **dict.fromkeys("−–—‐‑﹣", "-"),
    **dict.fromkeys("×✕✖", r"\times "),
    **dict.fromkeys("·⋅∙•", r"\cdot "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
    **dict.fromkeys("°º˚", r"^{\circ}"),
    **dict.fromkeys("∅ø", r"\emptyset "),
    "√": r"\sqrt ", "∛": r"\sqrt[3] ", "∜": r"\sqrt[4] ", "÷": r"\div ", "∗": "*",
    "∕": "/", "⁄": "/", "±": r"\pm ", "∓": r"\mp ", "∞": r"\infty ", "≤": r"\le ",
    "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ",
    "≡": r"\equiv ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∖": r"\setminus ",
    "∨": r"\lor ", "∧": r"\land ", "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ",
    "∂": r"\partial ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ",
    "⌉": r"\rceil ", "…": r"\ldots ", "⋯": r"\cdots ", "′": "'", "∣": "|",
    "⟨": r"\langle ", "⟩": r"\rangle ", "→": r"\to ", "∘": r"\circ ", "。": ".", "、": ", ",
    "’": "'", "“": "", "”": "", "∶": ":",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}", "∠": r"\angle ", "‖": r"\|",
}  # fmt: skip
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa mu nu xi pi rho sigma tau upsilon "
    "phi chi psi omega"
)
_LETTERS = {
    unicodedata.lookup(f"GREEK SMALL LETTER {name.upper()}"): rf"\{name} "
    for name in _GREEK.split()
} | {"λ": r"\lambda ", "ϕ": r"\phi ", "Δ": r"\Delta ", "Ω": r"\Omega "}
_ASCII = str.maketrans(_SYMBOLS | _LETTERS)
_RAISED, _LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ", "₀₁₂₃₄₅₆₇₈₉"
_SCRIPTS = str.maketrans(_RAISED + _LOWERED, "0123456789+-ni0123456789")


def substitution(pattern: str, replacement: str | Callable[[re.Match[str]], str]) -> Rewrite:
    """A rewrite of every match of `pattern`."""
    compiled = re.compile(pattern)
    return lambda text: compiled.sub(replacement, text)


def rewritten(text: str, rewrites: Iterable[Rewrite]) -> str:
    """`text` after each of `rewrites` in turn."""
    for rewrite in rewrites:
        text = rewrite(text)
    return text.strip()


def latex_of(text: str) -> str:
    """`text` with one command for each sign and one space for each gap.

    >>> latex_of("√3 ≤ x²"), latex_of(r"\\dfrac{1}{\\mathrm{e}}")
    ('\\\\sqrt{3} \\\\le x^{2}', '\\\\frac{1}{e}')
    """
    return rewritten(_ascii(text), _TYPOGRAPHY)


def _ascii(text: str) -> str:
    if text.isascii():
        return text
    text = re.sub(f"[{_RAISED}]+", lambda m: f"^{{{m[0].translate(_SCRIPTS)}}}", text)
    text = re.sub(f"[{_LOWERED}]+", lambda m: f"_{{{m[0].translate(_SCRIPTS)}}}", text)
    text = re.sub("[¼½¾⅐-⅞]", _vulgar_fraction, text)
    return unicodedata.normalize("NFKC", text.translate(_ASCII)).translate(_ASCII)


def _vulgar_fraction(match: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", match[0]).partition("⁄")
    return rf"\frac{{{top}}}{{{bottom}}}"


def _without_braces(command: str) -> Rewrite:
    """`\\command{content}` becomes its content, whatever braces nest in it."""
    pattern = re.compile(rf"\\(?:{command})\s*\{{")

    def rewrite(text: str) -> str:
        for match in reversed(list(pattern.finditer(text))):
            end = closing(text, match.end(), "{", "}")
            if end is not None:
                inside = text[match.end() : end]
                text = f"{text[: match.start()]} {inside} {text[end + 1 :]}"
        return text

    return rewrite


def closing(text: str, start: int, opener: str, closer: str) -> int | None:
    """Where the bracket that is open at `start` closes."""
    depth = 1
    for index in range(start, len(text)):
        depth += {opener: 1, closer: -1}.get(text[index], 0)
        if depth == 0:
            return index
    return None


def _root_of_parentheses(text: str) -> str:
    """In `\\sqrt(2)` and `\\sqrt[3]((1+x)/2)` the parentheses are the root's braces."""
    for match in reversed(list(re.finditer(r"(\\sqrt\s*(?:\[[^]]*\])?)\s*\(", text))):
        end = closing(text, match.end(), "(", ")")
        if end is not None:
            inside = text[match.end() : end]
            text = f"{text[: match.start()]}{match[1]}{{{inside}}}{text[end + 1 :]}"
    return text


def _fraction_over(text: str) -> str:
    """`a \\over b`, without braces around it, as a fraction."""
    top, over, bottom = text.partition(r"\over ")
    balanced = top.count("{") == top.count("}") and bottom.count("{") == bottom.count("}")
    return rf"\frac{{{top}}}{{{bottom}}}" if over and balanced else text


_FRENCH = {"[": ")", "]": "]"}
_END = "(?![a-zA-Z])"
_ARGUMENT = r"(?:\{((?:[^{}]|\{[^{}]*\})*)\}|(\\(?!sqrt)[a-zA-Z]+|[0-9a-zA-Z]))"
_TH = "(?:st|nd|rd|th)"
_ORDINAL = rf"(?:{_TH}|\{{{_TH}\}}|\\text\s*\{{\s*{_TH}\s*\}}|\{{\\text\s*\{{{_TH}\}}\}})"
_FUNCTIONS = "arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|ln|log"
_GAP = rf"(?:(?<!\\)\\[,;:> ]|\\(?:(?:thin|med|thick|en)space|q?quad){_END}|~|\s)"

_TYPOGRAPHY = [
    # Looks.
    substitution(rf"\\cr{_END}|\\\\\s*\[[0-9.]+\s*[a-z]+\]", r"\\\\ "),
    substitution(r"(?<!\\)\$([^$]+)(?<!\\)\$", r"\1"),
    substitution(r"\\[()\[\]](?!\])", " "),
    substitution(rf"\\(?:(?:display|text|script)style|(?:no)?limits|[Bb]igg?[lrm]?){_END}", ""),
    substitution(rf"\{{\\(rm|bf|it)(?={_END})", r"\\text{"),
    substitution(rf"\\(?:bf|rm|it|em|tiny|small|normalsize|[lL]arge|LARGE|[hH]uge){_END}", ""),
    substitution(
        r"\\(?:[hv]space\*?|[hv]?phantom|tag\*?|label)\s*\{[^{}]*\}"
        rf"|\\(?:(?:math)?strut|math(?:open|close|ord|rel|bin|punct)){_END}",
        "",
    ),
    substitution(r"\\(?:begin|end)\{(?:align(?:ed)?|gather(?:ed)?|equation|split)\*?\}|&(?==)", ""),
    substitution(
        r"^\s*(?:\\left\s*\\\{)?\s*\\begin\{cases\}([^&]*)\\end\{cases\}\s*(?:\\right\s*\.)?\s*$",
        lambda m: re.sub(r"\s*\\\\\s*(?=\S)", ", ", m[1]),
    ),
    substitution(r"\\color\s*\{\w+\}|\\(?:checkmark|blacksquare|qed|Box)(?![a-zA-Z])", ""),
    _without_braces(
        r"boxed|fbox|mathbf|boldsymbol|bm|math(?:it|sf|tt|normal)|underline|ensuremath|textcolor\{\w+\}"
    ),
    substitution(rf"\\(?:text(?:bf|it|rm|sf|tt|up|normal)|mbox|hbox|emph){_END}", r"\\text"),
    substitution(r"\\(?:mathrm|operatorname\*?|text)\s*\{\s*([eid])\s*\}", r" \1"),
    substitution(rf"\\(?:mathrm|text)\s*\{{({_FUNCTIONS})\}}", r"\\\1 "),
    substitution(r"\\mathrm\s+([eid])(?![a-zA-Z])", r" \1"),
    substitution(rf"\\mathrm{_END}", r"\\text"),
    substitution(r"(?<=[0-9a-zA-Z)}])\*\*(?=[-+(0-9a-zA-Z{])", "^"),
    substitution(r"\*\*|__|</?answer>", " "),
    substitution(r"^\s*([`*_]+)([^`*_]+)\1\s*$", r"\2"),
    # Numbers and formulas that stand in a text.
    substitution(r"(?<![\\a-zA-Z])(?:[iI]nfinity|infty|inf|oo)(?![a-zA-Z])", r"\\infty "),
    substitution(
        r"\\text\s*\{\s*([-+]?(?:\\\$|\$)?[0-9][0-9.,:/]*(?:\\?%)?)(?=[\s}])([^{}]*)\}",
        r"\1 \\text{\2}",
    ),
    substitution(r"\\text\s*\{\s*(\\[a-zA-Z]+(?:\{[^{}]*\})*|[,:])\s*\}", r"\1"),
    substitution(rf"(?<=[0-9])\s*\^?\s*{_ORDINAL}(?![a-zA-Z])", ""),
    substitution(r"(?<=[0-9}])\s*\^\s*(?:o(?![a-z])|\{o\}|\{\\text\s*\{o\}\})", r"^{\\circ}"),
    # Synonyms.
    substitution(r"\.\.\.+", r"\\ldots "),
    substitution(":?==*", "="),
    substitution(r"\+/-|^\s*\+-|(?<=[=,])\s*\+-", r"\\pm "),
    substitution(rf"\\ast{_END}", "*"),
    substitution(rf"\\colon{_END}|\{{:\}}", ":"),
    substitution(rf"\\backslash{_END}", r"\\setminus "),
    substitution(rf"\\big(cup|cap){_END}", r"\\\1 "),
    substitution(r"(\\log\s*_\s*(?:\{[^{}]*\}|[0-9a-z]))\s*\(", r"\1 \\left("),
    substitution(rf"\\lg{_END}", r"\\log_{10} "),
    substitution(rf"\\log\s*_\s*(?:\{{\s*e\s*\}}|e{_END})", r"\\ln "),
    substitution(rf"\\(?:nice|[sdtc])frac{_END}", r"\\frac"),
    substitution(
        rf"\\frac\s*{_ARGUMENT}\s*{_ARGUMENT}",
        lambda m: rf"\frac{{{m[1] or m[2]}}}{{{m[3] or m[4]}}}",
    ),
    substitution(
        rf"\\[dt]?binom\s*{_ARGUMENT}\s*{_ARGUMENT}",
        lambda m: rf"\binom{{{m[1] or m[2]}}}{{{m[3] or m[4]}}}",
    ),
    substitution(rf"\{{([^{{}}]*)\\over{_END}([^{{}}]*)\}}", r"\\frac{\1}{\2}"),
    _fraction_over,
    substitution(rf"\\varnothing{_END}|\\\{{\s*\\\}}", r"\\emptyset "),
    substitution(rf"\\leq(?:slant|q)?{_END}|<=", r"\\le "),
    substitution(rf"\\geq(?:slant|q)?{_END}|>=", r"\\ge "),
    substitution(rf"\\neq{_END}", r"\\ne "),
    substitution(rf"\\lt{_END}", "<"),
    substitution(rf"\\gt{_END}", ">"),
    substitution(rf"\\lbrace{_END}", r"\\{"),
    substitution(rf"\\rbrace{_END}", r"\\}"),
    substitution(rf"\\[lr]?vert{_END}|\\mid{_END}", "|"),
    substitution(r"\\begin\{array\}(?:\{[^{}]*\})?([^&\\]*)\\end\{array\}", r"\1"),
    substitution(r"\\begin\{(?:small)?array\}(?:\{[^{}]*\})?", r"\\begin{matrix}"),
    substitution(r"\\end\{(?:small)?array\}", r"\\end{matrix}"),
    substitution(r"\\(begin|end)\{smallmatrix\}", r"\\\1{matrix}"),
    substitution(r"\\(?:left)?\s*[\[(]\s*\\begin\{matrix\}", r"\\begin{pmatrix}"),
    substitution(r"\\end\{matrix\}\s*\\(?:right)?\s*[\])]", r"\\end{pmatrix}"),
    substitution(
        rf"\\operatorname\*?\s*\{{({_FUNCTIONS}|exp|gcd|lcm|max|min|det|mod)\}}", r"\\\1 "
    ),
    substitution(rf"(?<![\\a-zA-Z])({_FUNCTIONS})(?=[\s({{\\0-9])", r"\\\1"),
    substitution(r"(?<![\\a-zA-Z])sqrt(?=\s*[({0-9])", r"\\sqrt"),
    substitution(r"(?<![\\a-zA-Z])(pi|theta)(?![a-zA-Z])", r"\\\1 "),
    substitution(rf"\\langle{_END}", "("),
    substitution(rf"\\rangle{_END}", ")"),
    substitution(
        r"(?i)^\s*(?:\\text\s*\{\s*)?(?:(?:the )?empty set|no solutions?)\s*\}?\s*$", r"\\emptyset"
    ),
    substitution(r"(?i)^\s*(?:\\text\s*\{\s*)?DNE\s*\}?\s*$", r"\\text{does not exist}"),
    substitution(r"(?i)^\s*(?:\\text\s*\{\s*)?all real numbers\s*\}?\s*$", r"(-\\infty,\\infty)"),
    substitution(r"\\mathbb\s*\{?R\}?", r"(-\\infty,\\infty)"),
    substitution(r"\{bmatrix\}", "{pmatrix}"),
    substitution(r"^\s*-\\infty\s*<\s*[a-z]\s*<\s*\+?\\infty\s*$", r"(-\\infty,\\infty)"),
    substitution(r"^\s*-\\infty\s*(?:<|\\le )\s*|\s*(?:<|\\le )\s*\+?\\infty\s*$", ""),
    # Names of functions, and which integers are meant.
    substitution(r"^\s*[a-z]\s*\\mapsto", ""),
    substitution(r",\s*[a-z]\s*\\in\s*\\mathbb\s*\{?[ZNQ]\}?\s*$", ""),
    substitution(
        r"[,\s]*\\text\s*\{\s*,?\s*for (?:all|any|every|each|some|real|integer)\b[^{}]*\}"
        r"\s*[a-z]\s*$",
        "",
    ),
    # Intervals as the French write them, and sets by a condition.
    substitution(r"^\s*\](.*,.*?)([\[\]])\s*$", lambda m: f"({m[1]}{_FRENCH[m[2]]}"),
    substitution(r"^\s*\[([^\[\]()]*,[^\[\]()]*)\[\s*$", r"[\1)"),
    substitution(r"^\s*\\\{\s*[a-z]\b(?:\s*\\in\b[^|:]*)?\s*[|:](.*)\\\}\s*$", r"\1"),
    # Roots and powers with their argument in braces.
    _root_of_parentheses,
    substitution(r"(\\sqrt(?:\[[^]]*\])?)\s*(\\[a-zA-Z]+|[0-9]+|[a-zA-Z])", r"\1{\2}"),
    substitution(r"\^\s*([-+][0-9]+)", r"^{\1}"),
    substitution(r"\^\s*\(([^()]*)\)", r"^{\1}"),
    substitution(r"(?<=[0-9])i(?![a-zA-Z])", " i"),
    # White space.
    substitution(r"\\text\s*\{\s*\}", " "),
    substitution(r"(?<=[0-9]),\\[,!]\s*(?=[0-9]{3}(?![0-9]))", "{,}"),
    substitution(r"(?<!\\)\\!\s*|\{\s*\}", ""),
    substitution(rf"{_GAP}+", " "),
    substitution(r"\{ +", "{"),
    substitution(r"(?:\\\\|(?<!\\)\\)\s*$", ""),
    substitution(
        r"^\s*(?:=|\\(?:(?:Right|right)arrow|implies|therefore|approx)|(?:the|at)(?=\s+[0-9])"
        r"|(?i:(?:the )?(?:final )?answer\s*(?:is|[:=])))\s*|\s*[.,;:]+\s*$",
        "",
    ),
]
