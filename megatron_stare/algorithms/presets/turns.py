"""Methods that give credit to turns."""

from __future__ import annotations

from megatron_stare.algorithms.corrections import Mis
from megatron_stare.algorithms.links.adv_evo import AdvEvo
from megatron_stare.algorithms.links.gigpo import Gigpo
from megatron_stare.algorithms.links.group_baselines import Grpo
from megatron_stare.algorithms.links.hgpo import Hgpo
from megatron_stare.algorithms.links.igpo import Igpo
from megatron_stare.algorithms.links.infopo import InfoPo
from megatron_stare.algorithms.links.mapo import Mapo
from megatron_stare.algorithms.links.mars import Mars
from megatron_stare.algorithms.links.match_tir import MatchTir
from megatron_stare.algorithms.links.retool import Retool
from megatron_stare.algorithms.links.seeupo import SeeUpo
from megatron_stare.algorithms.links.srgpo import Srgpo
from megatron_stare.algorithms.links.torl import Torl
from megatron_stare.algorithms.links.trloo import Trloo
from megatron_stare.algorithms.links.veto import Veto
from megatron_stare.algorithms.presets.preset import Preset
from megatron_stare.algorithms.simple_tir import AccuracyBand, Finished
from megatron_stare.algorithms.terms.clip import Clip
from megatron_stare.algorithms.terms.gspo import Gspo
from megatron_stare.algorithms.terms.st_ppo import StPpo
from megatron_stare.algorithms.turn_by_turn import TurnByTurn

OF_TURNS: dict[str, Preset] = {
    "gigpo": Preset(
        about="""Samples against their groups, and turns against others in the same state.

        The code adds terms=[{kl: {coef: 0.01}}], and takes 0.1 off the reward of an invalid turn.

        Source: GiGPO, arXiv 2505.10978
        Status: checked against authors' code
        """,
        links={"gigpo": Gigpo()},
        policy={"clip": Clip(high=0.2)},
        filters={},
    ),
    "hgpo": Preset(
        about="""Turns against others that have come the same way.

        The code adds terms=[{kl: {coef: 0.01}}].

        Source: HGPO, arXiv 2602.22817
        Status: checked against authors' code
        """,
        links={"hgpo": Hgpo()},
        policy={"clip": Clip(high=0.2)},
        filters={},
    ),
    "srgpo": Preset(
        about="""Samples against their groups, and rewards of turns against those of any others.

        Source: SeeNav-Agent's SRGPO, arXiv 2512.02631
        Status: paper
        """,
        links={"srgpo": Srgpo()},
        policy={"clip": Clip(high=0.2)},
        filters={},
    ),
    "mars": Preset(
        about="""What turns have led to, against all turns of their player.

        The code adds terms=[{kl: {coef: 0.2}}].

        Source: MARS (MARSHAL), arXiv 2510.15414
        Status: checked against authors' code
        """,
        links={"mars": Mars()},
        policy={"clip": Clip(high=0.2)},
        filters={},
    ),
    "adv_evo": Preset(
        about="""What players have earned, against all players of their role.

        Source: AdvEvo-MARL, arXiv 2510.01586
        Status: derived
        """,
        links={"adv_evo": AdvEvo()},
        policy={"clip": Clip(high=0.2)},
        filters={},
    ),
    "dr_kernel": Preset(
        about="""Leave-one-out turn by turn, without samples that engine and policy disagree on.

        The geometric mean of a sample's ratios has to be within a thousandth of 1, and none of them
        below 1e-4 (MRS). With a profiler, links are [profiled, prs, veto, mis], the last two as
        here (PR, PRS).

        Source: Dr. Kernel, arXiv 2602.05885
        Status: checked against authors' code
        """,
        links={
            "trloo": Trloo(),
            "veto": Veto(),
            "mis": Mis(level="geometric", low=0.999, high=1.001),
        },
        policy={"clip": Clip(high=0.28)},
        aggregation="seq-mean-token-sum",
    ),
    "igpo": Preset(
        about="""Turns are paid for how much likelier they have made the answer.

        The code adds terms=[{kl: {coef: 0.001}}].

        Source: IGPO, arXiv 2510.14967
        Status: paper
        """,
        links={"igpo": Igpo()},
        policy={"clip": Clip(high=0.2)},
        filters={},
    ),
    "match_tir": Preset(
        about="""Samples against their groups, and turns against the same turns of these.

        The code adds terms=[{kl: {coef: 0.001}}, {entropy: {coef: 0.001}}].

        Source: MatchTIR, arXiv 2601.10712
        Status: checked against authors' code
        """,
        links={"match_tir": MatchTir()},
        policy={"clip": Clip(high=0.2)},
        filters={},
    ),
    "mapo": Preset(
        about="""What turns have led to, and what they have earned.

        Source: MAPO (MICA), arXiv 2603.06194
        Status: derived
        """,
        links={"mapo": Mapo()},
        policy={"clip": Clip(high=0.2)},
        filters={},
    ),
    "st_ppo": Preset(
        about="""Rewards standardised in their groups, under a clip of whole turns.

        Source: ST-PPO's Turn-PPO, arXiv 2511.20718
        Status: paper
        """,
        links={"grpo": Grpo()},
        policy={"st_ppo": StPpo()},
    ),
    "retool": Preset(
        about="""GRPO in which wrong answers lose less where tools were tried.

        Source: verl's ReTool recipe, arXiv 2504.11536
        Status: checked against authors' code
        """,
        links={"retool": Retool()},
        policy={"clip": Clip(high=0.28, dual=10.0)},
    ),
    "simple_tir": Preset(
        about="""GRPO of groups that are neither too easy nor too hard, without void turns.

        `workflow.void: mask` leaves samples with such a turn out of the loss, though not out of
        their groups; without tools this is GRPO with two filters.

        Source: SimpleTIR, arXiv 2509.02479
        Status: checked against authors' code
        """,
        links={"grpo": Grpo()},
        policy={"clip": Clip(high=0.28, dual=3.0)},
        filters={"accuracy_band": AccuracyBand(), "finished": Finished()},
    ),
    "torl": Preset(
        about="""GRPO in which code that does not run costs something.

        Source: ToRL, arXiv 2503.23383
        Status: paper
        """,
        links={"torl": Torl()},
        policy={"clip": Clip(high=0.2)},
        filters={},
    ),
    "slea": Preset(
        about="""Samples against their groups, and turns against others that have seen the like.

        GiGPO's parts, both standardised. Observations are alike where they are the same: clusters
        of similar ones are for who gives anchors. The library of experiences that the paper puts
        into prompts is not here. Its terms are [{kl: {coef: 0.01}}].

        Source: SLEA-RL, arXiv 2603.18079
        Status: paper
        """,
        links={"gigpo": Gigpo(norm="mean_std", over="samples")},
        policy={"clip": Clip(high=0.2)},
        filters={},
    ),
    "infopo": Preset(
        about="""Samples against their groups; turns are paid for what they have found out.

        Source: InfoPO, arXiv 2603.00656
        Status: checked against authors' code
        """,
        links={"infopo": InfoPo()},
        policy={"clip": Clip(high=0.2)},
        filters={},
    ),
    "seeupo": Preset(
        about="""An update a turn, the last first, each weighed by what those after it have moved.

        The code adds terms=[{kl: {coef: 0.002}}].

        Source: SeeUPO, arXiv 2602.06554
        Status: checked against authors' code
        """,
        links={"seeupo": SeeUpo()},
        policy={"gspo": Gspo()},
        aggregation="seq-mean-token-mean",
        updates={"turn_by_turn": TurnByTurn()},
        filters={},
    ),
}
"""By name."""
