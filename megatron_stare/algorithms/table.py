"""Every part by its name, and every method as its parts. A new one is a line here.

What a part is stands in its docstring, and what a method is in `about`, in one form: the formula in
one line, what else there is to know, and

    Source: the paper, with its arXiv number
    Status: checked against authors' code | paper | derived

which says what its golden numbers come from. `megatron-stare methods` prints them, and so does
docs/methods.md, which explains how to add one.
"""

from __future__ import annotations

from megatron_stare.algorithms.corrections import IcePop, Mis, Tis
from megatron_stare.algorithms.filters import Mixed, NotAllRight
from megatron_stare.algorithms.hooks import Component, Filter, Link, Term
from megatron_stare.algorithms.links.group_baselines import DrGrpo, Grpo, Rloo
from megatron_stare.algorithms.links.quadrants import Quadrants
from megatron_stare.algorithms.links.stare import Stare
from megatron_stare.algorithms.method import Method
from megatron_stare.algorithms.terms.clip import Clip
from megatron_stare.algorithms.terms.entropy import Entropy
from megatron_stare.algorithms.terms.kl import Kl
from megatron_stare.algorithms.terms.nll import Nll

LINKS: dict[str, type[Link]] = {
    "grpo": Grpo,
    "dr_grpo": DrGrpo,
    "rloo": Rloo,
    "stare": Stare,
    "tis": Tis,
    "icepop": IcePop,
    "mis": Mis,
    "quadrants": Quadrants,
}

TERMS: dict[str, type[Term]] = {
    "clip": Clip,
    "kl": Kl,
    "entropy": Entropy,
    "nll": Nll,
}

FILTERS: dict[str, type[Filter]] = {
    "mixed": Mixed,
    "not_all_right": NotAllRight,
}

PARTS: dict[str, type[Component]] = {**LINKS, **TERMS, **FILTERS}


class Preset(Method):
    """A method, and what it is."""

    about: str
    """One line; more, if need be; source and status."""


METHODS: dict[str, Preset] = {
    "grpo": Preset(
        about="""Rewards standardised in their groups, under a clipped surrogate.

        Source: DeepSeekMath, arXiv 2402.03300; clip-higher, DAPO, arXiv 2503.14476
        Status: checked against authors' code
        """,
        links={"grpo": Grpo()},
        policy={"clip": Clip()},
        filters={"mixed": Mixed()},
    ),
    "dr_grpo": Preset(
        about="""GRPO without its divisions by the group's std and the response's length.

        Source: Understanding R1-Zero-Like Training, arXiv 2503.20783
        Status: checked against authors' code
        """,
        links={"dr_grpo": DrGrpo()},
        policy={"clip": Clip()},
        filters={"mixed": Mixed()},
        aggregation="seq-mean-token-sum",
    ),
    "rloo": Preset(
        about="""The mean of the group's other rewards as baseline, under a clipped surrogate.

        Source: Back to Basics, arXiv 2402.14740
        Status: checked against authors' code
        """,
        links={"rloo": Rloo()},
        policy={"clip": Clip()},
        filters={"mixed": Mixed()},
    ),
    "stare": Preset(
        about="""GRPO whose surprising rewarded tokens weigh more while entropy is low.

        Source: STARE, arXiv 2606.19236
        Status: checked against authors' code
        """,
        links={"grpo": Grpo(), "stare": Stare()},
        policy={"clip": Clip()},
        filters={"mixed": Mixed()},
    ),
}
"""Presets, by name."""
