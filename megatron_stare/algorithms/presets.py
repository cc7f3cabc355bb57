"""Every published method as its parts, with its authors' settings. A new one is an entry here."""

from __future__ import annotations

from pydantic import Field

from megatron_stare.algorithms.filters import Mixed, NotAllRight
from megatron_stare.algorithms.hooks import Filter, Term
from megatron_stare.algorithms.links.a_grae import AGrae
from megatron_stare.algorithms.links.canon import Canon
from megatron_stare.algorithms.links.clip_cov import ClipCov
from megatron_stare.algorithms.links.eapo import Eapo
from megatron_stare.algorithms.links.entro_adv import EntroAdv
from megatron_stare.algorithms.links.entropy_clip import EntropyClip
from megatron_stare.algorithms.links.gpg import Gpg
from megatron_stare.algorithms.links.group_baselines import DrGrpo, Grpo, Rloo
from megatron_stare.algorithms.links.gtpo import GrpoS, Gtpo
from megatron_stare.algorithms.links.high_entropy import HighEntropy
from megatron_stare.algorithms.links.ngrpo import Ngrpo
from megatron_stare.algorithms.links.opo import Opo
from megatron_stare.algorithms.links.polarity import Nsr, Psr, WReinforce
from megatron_stare.algorithms.links.qae import Qae
from megatron_stare.algorithms.links.reinforce import ReinforcePlusPlus, ReinforcePlusPlusBaseline
from megatron_stare.algorithms.links.stapo import Stapo
from megatron_stare.algorithms.links.stare import Stare
from megatron_stare.algorithms.links.steer import Steer
from megatron_stare.algorithms.links.unlikeliness import Unlikeliness
from megatron_stare.algorithms.method import Method
from megatron_stare.algorithms.terms.aspo import Aspo
from megatron_stare.algorithms.terms.ce_gppo import CeGppo
from megatron_stare.algorithms.terms.cispo import Cispo
from megatron_stare.algorithms.terms.clip import Clip
from megatron_stare.algorithms.terms.gmpo import Gmpo
from megatron_stare.algorithms.terms.gspo import Gspo
from megatron_stare.algorithms.terms.policy_gradient import PolicyGradient
from megatron_stare.algorithms.terms.sapo import Sapo


class Preset(Method):
    """A method, and what it is; of most, the clipped surrogate learns, and groups are mixed."""

    policy: dict[str, Term] = Field(default={"clip": Clip()})
    filters: dict[str, Filter] = Field(default={"mixed": Mixed()})
    about: str
    """One line; more, if need be; source and status."""


METHODS: dict[str, Preset] = {
    "grpo": Preset(
        about="""Rewards standardised in their groups, under a clipped surrogate.

        Source: DeepSeekMath, arXiv 2402.03300; clip-higher, DAPO, arXiv 2503.14476
        Status: checked against authors' code
        """,
        links={"grpo": Grpo()},
    ),
    "dr_grpo": Preset(
        about="""GRPO without its divisions by the group's std and the response's length.

        Source: Understanding R1-Zero-Like Training, arXiv 2503.20783
        Status: checked against authors' code
        """,
        links={"dr_grpo": DrGrpo()},
        aggregation="seq-mean-token-sum",
    ),
    "rloo": Preset(
        about="""The mean of the group's other rewards as baseline, under a clipped surrogate.

        Source: Back to Basics, arXiv 2402.14740
        Status: checked against authors' code
        """,
        links={"rloo": Rloo()},
    ),
    "opo": Preset(
        about="""The rewards' mean weighted by length as baseline, under a clipped surrogate.

        Source: On-Policy RL with Optimal Reward Baseline, arXiv 2505.23585
        Status: checked against authors' code
        """,
        links={"opo": Opo()},
    ),
    "reinforce_plus_plus": Preset(
        about="""Rewards whitened over the batch's tokens, under PPO's surrogate.

        Source: REINFORCE++, arXiv 2501.03262
        Status: checked against authors' code
        """,
        links={"reinforce_plus_plus": ReinforcePlusPlus()},
        policy={"clip": Clip(high=0.2)},
        filters={},
    ),
    "reinforce_plus_plus_baseline": Preset(
        about="""Deviations from the group's mean, whitened over the batch's tokens.

        Source: REINFORCE++, arXiv 2501.03262
        Status: checked against authors' code
        """,
        links={"reinforce_plus_plus_baseline": ReinforcePlusPlusBaseline()},
        policy={"clip": Clip(high=0.2)},
    ),
    "psr": Preset(
        about="""Right samples alone are learned from, and all alike.

        Source: The Surprising Effectiveness of Negative Reinforcement, arXiv 2506.01347
        Status: checked against authors' code
        """,
        links={"psr": Psr()},
        policy={"clip": Clip(high=0.2)},
        filters={},
    ),
    "nsr": Preset(
        about="""Wrong samples alone are learned from, and all alike.

        Source: The Surprising Effectiveness of Negative Reinforcement, arXiv 2506.01347
        Status: checked against authors' code
        """,
        links={"nsr": Nsr()},
        policy={"clip": Clip(high=0.2)},
        filters={},
    ),
    "w_reinforce": Preset(
        about="""Right samples weigh a tenth of wrong ones, without a baseline.

        Source: The Surprising Effectiveness of Negative Reinforcement, arXiv 2506.01347
        Status: checked against authors' code
        """,
        links={"w_reinforce": WReinforce()},
        policy={"clip": Clip(high=0.2)},
        filters={},
    ),
    "ngrpo": Preset(
        about="""GRPO against a virtual right sample, so that groups all wrong are learned from.

        The paper draws 8 samples a prompt.

        Source: NGRPO, arXiv 2509.18851
        Status: checked against authors' code
        """,
        links={"ngrpo": Ngrpo()},
        policy={"clip": Clip(low=0.16, high=0.24)},
        filters={"not_all_right": NotAllRight()},
    ),
    "qae": Preset(
        about="""A quantile of the group's rewards as baseline, under DAPO's surrogate.

        Source: Quantile Advantage Estimation, arXiv 2509.22611
        Status: paper
        """,
        links={"qae": Qae()},
    ),
    "gpg": Preset(
        about="""The plain policy gradient of deviations from the group's mean, without a ratio.

        One update a step keeps it on-policy.

        Source: GPG, arXiv 2504.02546
        Status: checked against authors' code
        """,
        links={"gpg": Gpg()},
        policy={"policy_gradient": PolicyGradient()},
    ),
    "a_grae": Preset(
        about="""GRPO whose easy prompts weigh more early, and hard ones late.

        Source: A-GRAE, arXiv 2602.05548
        Status: checked against authors' code
        """,
        links={"a_grae": AGrae()},
    ),
    "unlikeliness": Preset(
        about="""GRPO whose right answers are worth more where the policy finds them unlikely.

        The paper adds terms=[{kl: {coef: 0.1}}], and takes two epochs of updates a step.

        Source: Rewarding the Unlikely, arXiv 2506.02355
        Status: checked against authors' code
        """,
        links={"unlikeliness": Unlikeliness()},
        policy={"clip": Clip(high=0.2)},
        filters={},
    ),
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
    "stapo": Preset(
        about="""GRPO without the spurious tokens of good samples.

        Source: STAPO, arXiv 2602.15620
        Status: paper
        """,
        links={"grpo": Grpo(), "stapo": Stapo()},
    ),
    "eapo": Preset(
        about="""GRPO whose advantages are larger where the policy hesitated.

        Source: EAPO, later HAPO (hindsight), arXiv 2604.11056
        Status: paper
        """,
        links={"grpo": Grpo(), "eapo": Eapo()},
    ),
}
"""Presets, by name."""
