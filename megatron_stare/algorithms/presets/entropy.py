"""Methods that pay for entropy, or learn by it."""

from __future__ import annotations

from megatron_stare.algorithms.links.adaptive_entropy import AdaptiveEntropy
from megatron_stare.algorithms.links.epo import Epo
from megatron_stare.algorithms.links.group_baselines import Grpo
from megatron_stare.algorithms.links.hapo import Hapo
from megatron_stare.algorithms.links.hapo_baseline import TokenMean
from megatron_stare.algorithms.presets.preset import Preset
from megatron_stare.algorithms.terms.entropy import Entropy
from megatron_stare.algorithms.terms.hapo_clip import HapoClip
from megatron_stare.algorithms.terms.marked_entropy import MarkedEntropy
from megatron_stare.algorithms.terms.smoothed_entropy import SmoothedEntropy

ENTROPY: dict[str, Preset] = {
    "entro_reg": Preset(
        about="""GRPO with a bonus for entropy.

        Source: A3C, arXiv 1602.01783; the usual coefficient, verl
        Status: checked against authors' code
        """,
        links={"grpo": Grpo()},
        terms={"entropy": Entropy()},
    ),
    "adaptive_entropy": Preset(
        about="""GRPO with a bonus for entropy below a target, whose coefficient is moved.

        Source: Skywork-OR1, arXiv 2505.22312
        Status: checked against authors' code
        """,
        links={"grpo": Grpo(), "adaptive_entropy": AdaptiveEntropy()},
        terms={"marked_entropy": MarkedEntropy()},
    ),
    "epo": Preset(
        about="""GRPO with a bonus for entropy, less a penalty where it leaves its history.

        Each turn has a history of its own.

        Source: EPO, arXiv 2509.22576
        Status: checked against authors' code
        """,
        links={"grpo": Grpo(), "epo": Epo()},
        terms={"smoothed_entropy": SmoothedEntropy()},
    ),
    "hapo": Preset(
        about="""Advantages, clip ranges and a neutral zone by where entropy stands in the batch.

        The heterogeneous HAPO; `eapo` is the hindsight-aware one. Tokens are drawn, and learned
        from, at temperatures of their own; SGLang servers need --enable-custom-logit-processor.

        Source: HAPO (heterogeneous), arXiv 2509.16591
        Status: checked against authors' code
        """,
        links={"hapo_baseline": TokenMean(), "hapo": Hapo()},
        policy={"hapo_clip": HapoClip()},
    ),
}
"""By name."""
