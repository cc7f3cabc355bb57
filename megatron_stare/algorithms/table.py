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
from megatron_stare.algorithms.links.a3po import A3po
from megatron_stare.algorithms.links.a_grae import AGrae
from megatron_stare.algorithms.links.ace import Ace
from megatron_stare.algorithms.links.canon import Canon
from megatron_stare.algorithms.links.clip_cov import ClipCov
from megatron_stare.algorithms.links.d3s import D3s
from megatron_stare.algorithms.links.eapo import Eapo
from megatron_stare.algorithms.links.entro_adv import EntroAdv
from megatron_stare.algorithms.links.entropy_clip import EntropyClip
from megatron_stare.algorithms.links.gpg import Gpg
from megatron_stare.algorithms.links.group_baselines import DrGrpo, Grpo, Rloo
from megatron_stare.algorithms.links.grpo_n import GrpoN
from megatron_stare.algorithms.links.gtpo import GrpoS, Gtpo
from megatron_stare.algorithms.links.high_entropy import HighEntropy
from megatron_stare.algorithms.links.ngrpo import Ngrpo
from megatron_stare.algorithms.links.opo import Opo
from megatron_stare.algorithms.links.polarity import Nsr, Psr, WReinforce
from megatron_stare.algorithms.links.qae import Qae
from megatron_stare.algorithms.links.quadrants import Quadrants
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
from megatron_stare.algorithms.terms.entropy import Entropy
from megatron_stare.algorithms.terms.gmpo import Gmpo
from megatron_stare.algorithms.terms.gspo import Gspo, GspoToken
from megatron_stare.algorithms.terms.kl import Kl
from megatron_stare.algorithms.terms.nll import Nll
from megatron_stare.algorithms.terms.policy_gradient import PolicyGradient
from megatron_stare.algorithms.terms.sapo import Sapo

LINKS: dict[str, type[Link]] = {
    "grpo": Grpo,
    "dr_grpo": DrGrpo,
    "rloo": Rloo,
    "opo": Opo,
    "reinforce_plus_plus": ReinforcePlusPlus,
    "reinforce_plus_plus_baseline": ReinforcePlusPlusBaseline,
    "psr": Psr,
    "nsr": Nsr,
    "w_reinforce": WReinforce,
    "ngrpo": Ngrpo,
    "qae": Qae,
    "gpg": Gpg,
    "grpo_n": GrpoN,
    "a_grae": AGrae,
    "unlikeliness": Unlikeliness,
    "entro_adv": EntroAdv,
    "gtpo": Gtpo,
    "grpo_s": GrpoS,
    "ace": Ace,
    "canon": Canon,
    "stare": Stare,
    "tis": Tis,
    "icepop": IcePop,
    "mis": Mis,
    "quadrants": Quadrants,
    # Of tokens.
    "high_entropy": HighEntropy,
    "steer": Steer,
    "clip_cov": ClipCov,
    "stapo": Stapo,
    "a3po": A3po,
    "eapo": Eapo,
    "d3s": D3s,
    "entropy_clip": EntropyClip,
}

TERMS: dict[str, type[Term]] = {
    "clip": Clip,
    "policy_gradient": PolicyGradient,
    "kl": Kl,
    "entropy": Entropy,
    "nll": Nll,
    # In the place of the clipped surrogate.
    "gspo": Gspo,
    "gspo_token": GspoToken,
    "cispo": Cispo,
    "sapo": Sapo,
    "gmpo": Gmpo,
    "aspo": Aspo,
    "ce_gppo": CeGppo,
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
    "opo": Preset(
        about="""The rewards' mean weighted by length as baseline, under a clipped surrogate.

        Source: On-Policy RL with Optimal Reward Baseline, arXiv 2505.23585
        Status: checked against authors' code
        """,
        links={"opo": Opo()},
        policy={"clip": Clip()},
        filters={"mixed": Mixed()},
    ),
    "reinforce_plus_plus": Preset(
        about="""Rewards whitened over the batch's tokens, under PPO's surrogate.

        Source: REINFORCE++, arXiv 2501.03262
        Status: checked against authors' code
        """,
        links={"reinforce_plus_plus": ReinforcePlusPlus()},
        policy={"clip": Clip(high=0.2)},
    ),
    "reinforce_plus_plus_baseline": Preset(
        about="""Deviations from the group's mean, whitened over the batch's tokens.

        Source: REINFORCE++, arXiv 2501.03262
        Status: checked against authors' code
        """,
        links={"reinforce_plus_plus_baseline": ReinforcePlusPlusBaseline()},
        policy={"clip": Clip(high=0.2)},
        filters={"mixed": Mixed()},
    ),
    "psr": Preset(
        about="""Right samples alone are learned from, and all alike.

        Source: The Surprising Effectiveness of Negative Reinforcement, arXiv 2506.01347
        Status: checked against authors' code
        """,
        links={"psr": Psr()},
        policy={"clip": Clip(high=0.2)},
    ),
    "nsr": Preset(
        about="""Wrong samples alone are learned from, and all alike.

        Source: The Surprising Effectiveness of Negative Reinforcement, arXiv 2506.01347
        Status: checked against authors' code
        """,
        links={"nsr": Nsr()},
        policy={"clip": Clip(high=0.2)},
    ),
    "w_reinforce": Preset(
        about="""Right samples weigh a tenth of wrong ones, without a baseline.

        Source: The Surprising Effectiveness of Negative Reinforcement, arXiv 2506.01347
        Status: checked against authors' code
        """,
        links={"w_reinforce": WReinforce()},
        policy={"clip": Clip(high=0.2)},
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
        policy={"clip": Clip()},
        filters={"mixed": Mixed()},
    ),
    "gpg": Preset(
        about="""The plain policy gradient of deviations from the group's mean, without a ratio.

        One update a step keeps it on-policy.

        Source: GPG, arXiv 2504.02546
        Status: checked against authors' code
        """,
        links={"gpg": Gpg()},
        policy={"policy_gradient": PolicyGradient()},
        filters={"mixed": Mixed()},
    ),
    "a_grae": Preset(
        about="""GRPO whose easy prompts weigh more early, and hard ones late.

        Source: A-GRAE, arXiv 2602.05548
        Status: checked against authors' code
        """,
        links={"a_grae": AGrae()},
        policy={"clip": Clip()},
        filters={"mixed": Mixed()},
    ),
    "unlikeliness": Preset(
        about="""GRPO whose right answers are worth more where the policy finds them unlikely.

        The paper adds terms=[{kl: {coef: 0.1}}], and takes two epochs of updates a step.

        Source: Rewarding the Unlikely, arXiv 2506.02355
        Status: checked against authors' code
        """,
        links={"unlikeliness": Unlikeliness()},
        policy={"clip": Clip(high=0.2)},
    ),
    "entro_adv": Preset(
        about="""GRPO whose advantages gain where entropy is high.

        Source: Reasoning with Exploration, arXiv 2506.14758
        Status: paper
        """,
        links={"grpo": Grpo(), "entro_adv": EntroAdv()},
        policy={"clip": Clip()},
        filters={"mixed": Mixed()},
    ),
    "gtpo": Preset(
        about="""Rewards of tokens shaped by entropy, right and wrong ones normalised apart.

        Source: GTPO and GRPO-S, arXiv 2508.04349
        Status: paper
        """,
        links={"gtpo": Gtpo()},
        policy={"clip": Clip()},
        filters={"mixed": Mixed()},
    ),
    "grpo_s": Preset(
        about="""Rewards of samples shaped by entropy, right and wrong ones normalised apart.

        Source: GTPO and GRPO-S, arXiv 2508.04349
        Status: derived
        """,
        links={"grpo_s": GrpoS()},
        policy={"clip": Clip()},
        filters={"mixed": Mixed()},
    ),
    "canon": Preset(
        about="""A group's half of high entropy compared with the other, which it is to beat.

        Source: CANON, arXiv 2509.23962
        Status: checked against authors' code
        """,
        links={"canon": Canon()},
        policy={"clip": Clip()},
        filters={"mixed": Mixed()},
        aggregation="seq-mean-token-sum",
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
    "gspo": Preset(
        about="""Rewards standardised in their groups, under a clip of whole samples.

        Source: GSPO, arXiv 2507.18071
        Status: checked against authors' code
        """,
        links={"grpo": Grpo()},
        policy={"gspo": Gspo()},
        filters={"mixed": Mixed()},
        aggregation="seq-mean-token-mean",
    ),
    "gmpo": Preset(
        about="""Rewards standardised in their groups, under geometric means of clipped ratios.

        Source: GMPO, arXiv 2507.20673
        Status: checked against authors' code
        """,
        links={"grpo": Grpo()},
        policy={"gmpo": Gmpo()},
        filters={"mixed": Mixed()},
        aggregation="seq-mean-token-mean",
    ),
    "cispo": Preset(
        about="""Rewards standardised in their groups, under REINFORCE with a clipped weight.

        Source: MiniMax-M1, arXiv 2506.13585
        Status: checked against authors' code
        """,
        links={"grpo": Grpo()},
        policy={"cispo": Cispo()},
        filters={"mixed": Mixed()},
    ),
    "sapo": Preset(
        about="""Rewards standardised in their groups, under a soft gate.

        Source: SAPO, arXiv 2511.20347
        Status: checked against authors' code
        """,
        links={"grpo": Grpo()},
        policy={"sapo": Sapo()},
        filters={"mixed": Mixed()},
        aggregation="seq-mean-token-mean",
    ),
    "aspo": Preset(
        about="""GRPO with flipped ratios where A > 0, and wide clips where the policy hesitates.

        Source: ASPO (Archer2), arXiv 2510.06062
        Status: paper
        """,
        links={"grpo": Grpo(), "entropy_clip": EntropyClip()},
        policy={"aspo": Aspo()},
        filters={"mixed": Mixed()},
    ),
    "ce_gppo": Preset(
        about="""GRPO that keeps a bounded gradient where PPO clips.

        Source: CE-GPPO, arXiv 2509.20712
        Status: checked against authors' code
        """,
        links={"grpo": Grpo()},
        policy={"ce_gppo": CeGppo()},
        filters={"mixed": Mixed()},
    ),
    "high_entropy": Preset(
        about="""GRPO on the tokens with the largest entropy alone: 80/20.

        Source: Beyond the 80/20 Rule, arXiv 2506.01939
        Status: checked against authors' code
        """,
        links={"grpo": Grpo(), "high_entropy": HighEntropy()},
        policy={"clip": Clip()},
        filters={"mixed": Mixed()},
    ),
    "steer": Preset(
        about="""GRPO whose tokens weigh less where an update would move entropy most.

        Source: STEER, arXiv 2510.10150
        Status: checked against authors' code
        """,
        links={"grpo": Grpo(), "steer": Steer()},
        policy={"clip": Clip()},
        filters={"mixed": Mixed()},
    ),
    "clip_cov": Preset(
        about="""GRPO without clips, but for a few tokens of large covariance.

        Source: The Entropy Mechanism, arXiv 2505.22617
        Status: checked against authors' code
        """,
        links={"grpo": Grpo(), "clip_cov": ClipCov()},
        policy={"clip": Clip(low=1.0, high=1.0)},
        filters={"mixed": Mixed()},
    ),
    "stapo": Preset(
        about="""GRPO without the spurious tokens of good samples.

        Source: STAPO, arXiv 2602.15620
        Status: paper
        """,
        links={"grpo": Grpo(), "stapo": Stapo()},
        policy={"clip": Clip()},
        filters={"mixed": Mixed()},
    ),
    "eapo": Preset(
        about="""GRPO whose advantages are larger where the policy hesitated.

        Source: EAPO, later HAPO (hindsight), arXiv 2604.11056
        Status: paper
        """,
        links={"grpo": Grpo(), "eapo": Eapo()},
        policy={"clip": Clip()},
        filters={"mixed": Mixed()},
    ),
}
"""Presets, by name."""
