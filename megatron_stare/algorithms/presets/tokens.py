"""Methods that tell the tokens of a sample apart."""

from __future__ import annotations

from megatron_stare.algorithms.links.canon import Canon
from megatron_stare.algorithms.links.clip_cov import ClipCov
from megatron_stare.algorithms.links.eapo import Eapo
from megatron_stare.algorithms.links.entro_adv import EntroAdv
from megatron_stare.algorithms.links.group_baselines import Grpo
from megatron_stare.algorithms.links.gtpo import GrpoS, Gtpo
from megatron_stare.algorithms.links.high_entropy import HighEntropy
from megatron_stare.algorithms.links.kl_cov import KlCov
from megatron_stare.algorithms.links.lp_reg import LpReg
from megatron_stare.algorithms.links.stapo import Stapo
from megatron_stare.algorithms.links.stare import Stare
from megatron_stare.algorithms.links.steer import Steer
from megatron_stare.algorithms.links.verl import Verl
from megatron_stare.algorithms.presets.preset import Preset
from megatron_stare.algorithms.terms.clip import Clip
from megatron_stare.algorithms.terms.kl_cov_penalty import KlCovPenalty
from megatron_stare.algorithms.terms.lp_reg_clip import LpRegClip

TOKENS: dict[str, Preset] = {
    "entro_adv": Preset(
        about="""GRPO whose advantages gain where entropy is high.

        Source: Reasoning with Exploration, arXiv 2506.14758
        Status: paper
        """,
        links={"grpo": Grpo(), "entro_adv": EntroAdv()},
    ),
    "gtpo": Preset(
        about="""Rewards of tokens shaped by entropy, right and wrong ones normalised apart.

        Source: GTPO and GRPO-S, arXiv 2508.04349
        Status: paper
        """,
        links={"gtpo": Gtpo()},
    ),
    "grpo_s": Preset(
        about="""Rewards of samples shaped by entropy, right and wrong ones normalised apart.

        Source: GTPO and GRPO-S, arXiv 2508.04349
        Status: derived
        """,
        links={"grpo_s": GrpoS()},
    ),
    "canon": Preset(
        about="""A group's half of high entropy compared with the other, which it is to beat.

        Source: CANON, arXiv 2509.23962
        Status: checked against authors' code
        """,
        links={"canon": Canon()},
        aggregation="seq-mean-token-sum",
    ),
    "stare": Preset(
        about="""GRPO whose surprising rewarded tokens weigh more while entropy is low.

        Source: STARE, arXiv 2606.19236
        Status: checked against authors' code
        """,
        links={"grpo": Grpo(), "stare": Stare()},
    ),
    "high_entropy": Preset(
        about="""GRPO on the tokens with the largest entropy alone: 80/20.

        Source: Beyond the 80/20 Rule, arXiv 2506.01939
        Status: checked against authors' code
        """,
        links={"grpo": Grpo(), "high_entropy": HighEntropy()},
    ),
    "steer": Preset(
        about="""GRPO whose tokens weigh less where an update would move entropy most.

        Source: STEER, arXiv 2510.10150
        Status: checked against authors' code
        """,
        links={"grpo": Grpo(), "steer": Steer()},
    ),
    "clip_cov": Preset(
        about="""GRPO without clips, but for a few tokens of large covariance.

        Source: The Entropy Mechanism, arXiv 2505.22617
        Status: checked against authors' code
        """,
        links={"grpo": Grpo(), "clip_cov": ClipCov()},
        policy={"clip": Clip(low=1.0, high=1.0)},
    ),
    "kl_cov": Preset(
        about="""GRPO without clips, but for a penalty on a few tokens of large covariance.

        The penalty acts from the second update of a step on: train.updates_per_step is to be more
        than 1, as in the paper.

        Source: The Entropy Mechanism, arXiv 2505.22617
        Status: checked against authors' code
        """,
        links={"grpo": Grpo(), "kl_cov": KlCov()},
        policy={"clip": Clip(low=1.0, high=1e6, dual=1e6)},
        terms={"kl_cov_penalty": KlCovPenalty()},
    ),
    "stapo": Preset(
        about="""GRPO without the spurious tokens of good samples.

        Source: STAPO, arXiv 2602.15620
        Status: paper
        """,
        links={"grpo": Grpo(), "stapo": Stapo()},
    ),
    "lp_reg": Preset(
        about="""GRPO that spares the likelier of the rare tokens of bad samples.

        Of 14B models; of 32B ones lp_reg.share is 0.005.

        Source: Lp-Reg, arXiv 2510.03222
        Status: checked against authors' code
        """,
        links={"grpo": Grpo(), "lp_reg": LpReg()},
        policy={"lp_reg_clip": LpRegClip()},
    ),
    "verl": Preset(
        about="""GRPO whose advantages gain where hidden states take more directions than before.

        Source: VERL, arXiv 2509.23808
        Status: checked against authors' code
        """,
        links={"grpo": Grpo(), "verl": Verl()},
    ),
    "eapo": Preset(
        about="""GRPO whose advantages are larger where the policy hesitated.

        Source: EAPO, later HAPO (hindsight), arXiv 2604.11056
        Status: paper
        """,
        links={"grpo": Grpo(), "eapo": Eapo()},
    ),
}
"""By name."""
