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
from megatron_stare.algorithms.curricula.band import Band
from megatron_stare.algorithms.curricula.reflection import Reflection
from megatron_stare.algorithms.curricula.vade import Vade
from megatron_stare.algorithms.filters import FallBack, Mixed, NotAllRight, NotAllWrong
from megatron_stare.algorithms.hooks import Component, Curriculum, Filter, Link, Term, Updates
from megatron_stare.algorithms.links.a3po import A3po
from megatron_stare.algorithms.links.a_grae import AGrae
from megatron_stare.algorithms.links.ace import Ace
from megatron_stare.algorithms.links.adaptive_entropy import AdaptiveEntropy
from megatron_stare.algorithms.links.adora import Adora
from megatron_stare.algorithms.links.adv_evo import AdvEvo
from megatron_stare.algorithms.links.arpo import Arpo
from megatron_stare.algorithms.links.canon import Canon
from megatron_stare.algorithms.links.clip_cov import ClipCov
from megatron_stare.algorithms.links.d3s import D3s
from megatron_stare.algorithms.links.d3s_samples import D3sSamples
from megatron_stare.algorithms.links.dgpo_difficulty import DgpoDifficulty
from megatron_stare.algorithms.links.dgpo_distribution import DgpoDistribution
from megatron_stare.algorithms.links.dpo import Dpo
from megatron_stare.algorithms.links.eapo import Eapo
from megatron_stare.algorithms.links.entro_adv import EntroAdv
from megatron_stare.algorithms.links.entrocraft import Entrocraft
from megatron_stare.algorithms.links.entropy_clip import EntropyClip
from megatron_stare.algorithms.links.entropy_quadrants import EntropyQuadrants
from megatron_stare.algorithms.links.epo import Epo
from megatron_stare.algorithms.links.gigpo import Gigpo
from megatron_stare.algorithms.links.gpg import Gpg
from megatron_stare.algorithms.links.group_baselines import DrGrpo, Grpo, Rloo
from megatron_stare.algorithms.links.grpo_n import GrpoN
from megatron_stare.algorithms.links.gtpo import GrpoS, Gtpo
from megatron_stare.algorithms.links.hapo import Hapo
from megatron_stare.algorithms.links.hapo_baseline import TokenMean
from megatron_stare.algorithms.links.hgpo import Hgpo
from megatron_stare.algorithms.links.high_entropy import HighEntropy
from megatron_stare.algorithms.links.igpo import Igpo
from megatron_stare.algorithms.links.infopo import InfoPo
from megatron_stare.algorithms.links.ipo import Ipo
from megatron_stare.algorithms.links.kl_cov import KlCov
from megatron_stare.algorithms.links.lp_reg import LpReg
from megatron_stare.algorithms.links.mapo import Mapo
from megatron_stare.algorithms.links.mars import Mars
from megatron_stare.algorithms.links.match_tir import MatchTir
from megatron_stare.algorithms.links.ngrpo import Ngrpo
from megatron_stare.algorithms.links.off_policy_mask import OffPolicyMask
from megatron_stare.algorithms.links.opo import Opo
from megatron_stare.algorithms.links.overlong import Overlong
from megatron_stare.algorithms.links.polarity import Nsr, Psr, WReinforce
from megatron_stare.algorithms.links.pro_grpo import ProGrpo
from megatron_stare.algorithms.links.profiled import Profiled
from megatron_stare.algorithms.links.prs import Prs
from megatron_stare.algorithms.links.qae import Qae
from megatron_stare.algorithms.links.quadrants import Quadrants
from megatron_stare.algorithms.links.r3 import R3
from megatron_stare.algorithms.links.reinforce import ReinforcePlusPlus, ReinforcePlusPlusBaseline
from megatron_stare.algorithms.links.retool import Retool
from megatron_stare.algorithms.links.rose import Rose
from megatron_stare.algorithms.links.seeupo import SeeUpo
from megatron_stare.algorithms.links.segment_values import SegmentValues
from megatron_stare.algorithms.links.self_normalized import SelfNormalized
from megatron_stare.algorithms.links.simpo import Simpo
from megatron_stare.algorithms.links.spo import Spo
from megatron_stare.algorithms.links.srgpo import Srgpo
from megatron_stare.algorithms.links.stapo import Stapo
from megatron_stare.algorithms.links.stare import Stare
from megatron_stare.algorithms.links.steer import Steer
from megatron_stare.algorithms.links.torl import Torl
from megatron_stare.algorithms.links.trloo import Trloo
from megatron_stare.algorithms.links.turning_point import TurningPoint
from megatron_stare.algorithms.links.unlikeliness import Unlikeliness
from megatron_stare.algorithms.links.v05 import V05
from megatron_stare.algorithms.links.verl import Verl
from megatron_stare.algorithms.links.veto import Veto
from megatron_stare.algorithms.presets import METHODS
from megatron_stare.algorithms.replay import Replay
from megatron_stare.algorithms.simple_tir import AccuracyBand, Finished
from megatron_stare.algorithms.terms.aspo import Aspo
from megatron_stare.algorithms.terms.ce_gppo import CeGppo
from megatron_stare.algorithms.terms.cispo import Cispo
from megatron_stare.algorithms.terms.clip import Clip
from megatron_stare.algorithms.terms.demonstration_nll import DemonstrationNll
from megatron_stare.algorithms.terms.dgpo import Dgpo
from megatron_stare.algorithms.terms.entropy import Entropy
from megatron_stare.algorithms.terms.gmpo import Gmpo
from megatron_stare.algorithms.terms.gspo import Gspo, GspoToken
from megatron_stare.algorithms.terms.guide_gradient import GuideGradient
from megatron_stare.algorithms.terms.hapo_clip import HapoClip
from megatron_stare.algorithms.terms.kl import Kl
from megatron_stare.algorithms.terms.kl_cov_penalty import KlCovPenalty
from megatron_stare.algorithms.terms.lp_reg_clip import LpRegClip
from megatron_stare.algorithms.terms.marked_entropy import MarkedEntropy
from megatron_stare.algorithms.terms.nll import Nll
from megatron_stare.algorithms.terms.policy_gradient import PolicyGradient
from megatron_stare.algorithms.terms.positive_nll import PositiveNll
from megatron_stare.algorithms.terms.sapo import Sapo
from megatron_stare.algorithms.terms.smoothed_entropy import SmoothedEntropy
from megatron_stare.algorithms.terms.st_ppo import StPpo
from megatron_stare.algorithms.terms.tangent import Tangent
from megatron_stare.algorithms.turn_by_turn import TurnByTurn
from megatron_stare.algorithms.updates import Epochs

LINKS: dict[str, type[Link]] = {
    "grpo": Grpo,
    "dr_grpo": DrGrpo,
    "rloo": Rloo,
    "overlong": Overlong,
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
    "hapo_baseline": TokenMean,
    "a_grae": AGrae,
    "adora": Adora,
    "v05": V05,
    "dgpo_difficulty": DgpoDifficulty,
    "unlikeliness": Unlikeliness,
    "r3": R3,
    "pro_grpo": ProGrpo,
    "entro_adv": EntroAdv,
    "gtpo": Gtpo,
    "grpo_s": GrpoS,
    "ace": Ace,
    "verl": Verl,
    "canon": Canon,
    "stare": Stare,
    "tis": Tis,
    "icepop": IcePop,
    "mis": Mis,
    "veto": Veto,
    "off_policy_mask": OffPolicyMask,
    "self_normalized": SelfNormalized,
    "quadrants": Quadrants,
    "entropy_quadrants": EntropyQuadrants,
    # Of tokens.
    "high_entropy": HighEntropy,
    "steer": Steer,
    "clip_cov": ClipCov,
    "kl_cov": KlCov,
    "stapo": Stapo,
    "a3po": A3po,
    "eapo": Eapo,
    "d3s": D3s,
    "dgpo_distribution": DgpoDistribution,
    "d3s_samples": D3sSamples,
    "entrocraft": Entrocraft,
    "entropy_clip": EntropyClip,
    "hapo": Hapo,
    "lp_reg": LpReg,
    # For a term.
    "adaptive_entropy": AdaptiveEntropy,
    "epo": Epo,
    # Of segments.
    "segment_values": SegmentValues,
    "spo": Spo,
    "rose": Rose,
    "turning_point": TurningPoint,
    # Of pairs.
    "dpo": Dpo,
    "ipo": Ipo,
    "simpo": Simpo,
    "arpo": Arpo,
    # Of turns.
    "gigpo": Gigpo,
    "hgpo": Hgpo,
    "srgpo": Srgpo,
    "mars": Mars,
    "adv_evo": AdvEvo,
    "trloo": Trloo,
    "igpo": Igpo,
    "match_tir": MatchTir,
    "mapo": Mapo,
    "retool": Retool,
    "torl": Torl,
    "infopo": InfoPo,
    "seeupo": SeeUpo,
    "profiled": Profiled,
    "prs": Prs,
}

TERMS: dict[str, type[Term]] = {
    "clip": Clip,
    "policy_gradient": PolicyGradient,
    "kl": Kl,
    "entropy": Entropy,
    "nll": Nll,
    "kl_cov_penalty": KlCovPenalty,
    "demonstration_nll": DemonstrationNll,
    "guide_gradient": GuideGradient,
    "marked_entropy": MarkedEntropy,
    "smoothed_entropy": SmoothedEntropy,
    "positive_nll": PositiveNll,
    # In the place of the clipped surrogate.
    "gspo": Gspo,
    "gspo_token": GspoToken,
    "st_ppo": StPpo,
    "cispo": Cispo,
    "sapo": Sapo,
    "gmpo": Gmpo,
    "aspo": Aspo,
    "ce_gppo": CeGppo,
    "hapo_clip": HapoClip,
    "lp_reg_clip": LpRegClip,
    "dgpo": Dgpo,
    "tangent": Tangent,
}

FILTERS: dict[str, type[Filter]] = {
    "mixed": Mixed,
    "not_all_right": NotAllRight,
    "fall_back": FallBack,
    "not_all_wrong": NotAllWrong,
    "replay": Replay,
    "accuracy_band": AccuracyBand,
    "finished": Finished,
}

UPDATES: dict[str, type[Updates]] = {
    "epochs": Epochs,
    "turn_by_turn": TurnByTurn,
}

CURRICULA: dict[str, type[Curriculum]] = {
    "vade": Vade,
    "band": Band,
    "reflection": Reflection,
}

PARTS: dict[str, type[Component]] = {**LINKS, **TERMS, **UPDATES, **CURRICULA, **FILTERS}

__all__ = ["CURRICULA", "FILTERS", "LINKS", "METHODS", "PARTS", "TERMS", "UPDATES"]
