"""Methods that differ in the advantages of samples."""

from __future__ import annotations

from megatron_stare.algorithms.filters import FallBack, NotAllRight
from megatron_stare.algorithms.links.a_grae import AGrae
from megatron_stare.algorithms.links.gpg import Gpg
from megatron_stare.algorithms.links.group_baselines import DrGrpo, Grpo, Rloo
from megatron_stare.algorithms.links.ngrpo import Ngrpo
from megatron_stare.algorithms.links.opo import Opo
from megatron_stare.algorithms.links.polarity import Nsr, Psr, WReinforce
from megatron_stare.algorithms.links.qae import Qae
from megatron_stare.algorithms.links.reinforce import ReinforcePlusPlus, ReinforcePlusPlusBaseline
from megatron_stare.algorithms.links.unlikeliness import Unlikeliness
from megatron_stare.algorithms.presets.preset import Preset
from megatron_stare.algorithms.terms.clip import Clip
from megatron_stare.algorithms.terms.demonstration_nll import DemonstrationNll
from megatron_stare.algorithms.terms.policy_gradient import PolicyGradient
from megatron_stare.algorithms.updates import Epochs

BASELINES: dict[str, Preset] = {
    "grpo": Preset(
        about="""Rewards standardised in their groups, under a clipped surrogate.

        Source: DeepSeekMath, arXiv 2402.03300; clip-higher, DAPO, arXiv 2503.14476
        Status: checked against authors' code
        """,
        links={"grpo": Grpo()},
    ),
    "dr_grpo": Preset(
        about="""GRPO without its divisions by the group's std and the response's length.

        A sample's tokens are added up. The authors divide by the longest that a response may be:
        `sum_over: 3000`, say; gradients are as much smaller then, for the same `optim.clip_grad`.

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

        The paper adds terms=[{kl: {coef: 0.1}}].

        Source: Rewarding the Unlikely, arXiv 2506.02355
        Status: checked against authors' code
        """,
        links={"unlikeliness": Unlikeliness()},
        policy={"clip": Clip(high=0.2)},
        updates={"epochs": Epochs(count=2)},
        filters={},
    ),
    "hpt": Preset(
        about="""Deviations from the group's mean; a demonstration where no sample is right.

        Demonstrations are what `data.demonstration_field` names. The paper's gate is 0 for Qwen
        and 2 of 8 for Llama, and its weight of demonstrations 0.3 for a model of 1.5B.

        Source: HPT, arXiv 2509.04419
        Status: checked against authors' code
        """,
        links={"dr_grpo": DrGrpo()},
        policy={"clip": Clip(high=0.2)},
        terms={"demonstration_nll": DemonstrationNll()},
        filters={"fall_back": FallBack()},
    ),
}
"""By name."""
