"""Every part by its name, and every method as its parts. A new one is a line here."""

from __future__ import annotations

from megatron_stare.algorithms.corrections import IcePop, Mis, Tis
from megatron_stare.algorithms.hooks import Link, Term
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

METHODS: dict[str, Method] = {
    "grpo": Method(links={"grpo": Grpo()}, policy={"clip": Clip()}),
    "dr_grpo": Method(
        links={"dr_grpo": DrGrpo()}, policy={"clip": Clip()}, aggregation="seq-mean-token-sum"
    ),
    "rloo": Method(links={"rloo": Rloo()}, policy={"clip": Clip()}),
    "stare": Method(links={"grpo": Grpo(), "stare": Stare()}, policy={"clip": Clip()}),
}
"""Presets, by name."""
