"""Methods that differ in the surrogate that learns."""

from __future__ import annotations

from megatron_stare.algorithms.links.entropy_clip import EntropyClip
from megatron_stare.algorithms.links.group_baselines import Grpo
from megatron_stare.algorithms.presets.preset import Preset
from megatron_stare.algorithms.terms.aspo import Aspo
from megatron_stare.algorithms.terms.ce_gppo import CeGppo
from megatron_stare.algorithms.terms.cispo import Cispo
from megatron_stare.algorithms.terms.gmpo import Gmpo
from megatron_stare.algorithms.terms.gspo import Gspo
from megatron_stare.algorithms.terms.sapo import Sapo

SURROGATES: dict[str, Preset] = {
    "gspo": Preset(
        about="""Rewards standardised in their groups, under a clip of whole samples.

        Source: GSPO, arXiv 2507.18071
        Status: checked against authors' code
        """,
        links={"grpo": Grpo()},
        policy={"gspo": Gspo()},
        aggregation="seq-mean-token-mean",
    ),
    "gmpo": Preset(
        about="""Rewards standardised in their groups, under geometric means of clipped ratios.

        Source: GMPO, arXiv 2507.20673
        Status: checked against authors' code
        """,
        links={"grpo": Grpo()},
        policy={"gmpo": Gmpo()},
        aggregation="seq-mean-token-mean",
    ),
    "cispo": Preset(
        about="""Rewards standardised in their groups, under REINFORCE with a clipped weight.

        Source: MiniMax-M1, arXiv 2506.13585
        Status: checked against authors' code
        """,
        links={"grpo": Grpo()},
        policy={"cispo": Cispo()},
    ),
    "sapo": Preset(
        about="""Rewards standardised in their groups, under a soft gate.

        Source: SAPO, arXiv 2511.20347
        Status: checked against authors' code
        """,
        links={"grpo": Grpo()},
        policy={"sapo": Sapo()},
        aggregation="seq-mean-token-mean",
    ),
    "aspo": Preset(
        about="""GRPO with flipped ratios where A > 0, and wide clips where the policy hesitates.

        Source: ASPO (Archer2), arXiv 2510.06062
        Status: paper
        """,
        links={"grpo": Grpo(), "entropy_clip": EntropyClip()},
        policy={"aspo": Aspo()},
    ),
    "ce_gppo": Preset(
        about="""GRPO that keeps a bounded gradient where PPO clips.

        Source: CE-GPPO, arXiv 2509.20712
        Status: checked against authors' code
        """,
        links={"grpo": Grpo()},
        policy={"ce_gppo": CeGppo()},
    ),
}
"""By name."""
