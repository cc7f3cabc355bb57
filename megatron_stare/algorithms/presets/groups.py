"""Methods that weigh groups, samples and tokens by what else is known of them."""

from __future__ import annotations

from megatron_stare.algorithms.links.adora import Adora
from megatron_stare.algorithms.links.dgpo_difficulty import DgpoDifficulty
from megatron_stare.algorithms.links.dgpo_distribution import DgpoDistribution
from megatron_stare.algorithms.links.entrocraft import Entrocraft
from megatron_stare.algorithms.links.group_baselines import Grpo
from megatron_stare.algorithms.links.v05 import V05
from megatron_stare.algorithms.presets.preset import Preset
from megatron_stare.algorithms.terms.clip import Clip
from megatron_stare.algorithms.terms.dgpo import Dgpo

GROUPS: dict[str, Preset] = {
    "adora": Preset(
        about="""GRPO on groups whose right answers are the longer ones, a tenth of it on others.

        The code adds terms=[{kl: {coef: 0.001}}], and draws 16 samples a prompt.

        Source: ADORA, ShadeCloak/ADORA
        Status: checked against authors' code
        """,
        links={"adora": Adora()},
        policy={"clip": Clip(high=0.2)},
        filters={},
    ),
    "v05": Preset(
        about="""Rewards against a baseline between their mean and what the prompt's past tells.

        A prompt gets 4 samples, and more while that pays, up to rollout.samples_per_prompt, which
        is 16 in the paper.

        Source: V_0.5, arXiv 2603.10848
        Status: paper
        """,
        links={"v05": V05(first=4)},
        policy={"clip": Clip(high=0.2)},
        filters={},
    ),
    "dgpo_difficulty": Preset(
        about="""Deviations over their mean size, and hard prompts weigh more.

        Source: MathForge's DGPO, arXiv 2601.20614
        Status: checked against authors' code
        """,
        links={"dgpo_difficulty": DgpoDifficulty()},
        policy={"clip": Clip(high=0.2)},
        filters={},
    ),
    "dgpo_decoupled": Preset(
        about="""GRPO whose clipped tokens keep a gradient that fades.

        Source: DGPO (decoupled gradient), arXiv 2603.14389
        Status: checked against authors' code
        """,
        links={"grpo": Grpo()},
        policy={"dgpo": Dgpo()},
    ),
    "dgpo_distribution": Preset(
        about="""GRPO whose credit goes to tokens where the policy has left the reference.

        Source: DGPO (distribution-guided), arXiv 2605.03327
        Status: derived
        """,
        links={"grpo": Grpo(), "dgpo_distribution": DgpoDistribution()},
        policy={"clip": Clip(high=0.2)},
    ),
    "entrocraft": Preset(
        about="""GRPO that rejects good samples while entropy is low, and bad ones while it is high.

        The band is the code's for Qwen3-4B on Numina Math.

        Source: Entrocraft, arXiv 2604.26326
        Status: derived
        """,
        links={"grpo": Grpo(), "entrocraft": Entrocraft()},
        policy={"clip": Clip(high=0.2)},
        filters={},
    ),
}
"""Presets, by name."""
