"""What papers and their code call the settings of parts, where it is not what they are called here.

A chain of a paper may be written down in its words: `steer: {w_min: 0.9}` is `steer: {low: 0.9}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CLIPS = {"eps": "low high", "eps_low": "low", "eps_high": "high"}
_DUAL_CLIPS = {**_CLIPS, "c": "dual", "dual_clip_c": "dual"}

PAPER_NAMES: dict[str, dict[str, str]] = {
    "a3po": {
        "pos_low_scale": "positive",
        "neg_high_scale": "negative",
        "pos_low_ratio": "share",
        "neg_high_ratio": "share",
    },
    "adaptive_entropy": {"init": "first", "min": "low", "max": "high"},
    "canon": {"lam": "mu"},
    "clip_cov": {"ratio": "share", "lb": "low", "ub": "high"},
    "d3s": {"K_init": "first", "K_final": "last"},
    "dgpo_difficulty": {"temp": "temperature"},
    "hapo": {"pivot": "quantile"},
    "high_entropy": {"rho": "share"},
    "kl_cov": {"ratio": "share"},
    "lp_reg": {"rho": "share"},
    "mis": {"lower": "low", "upper": "high"},
    "ngrpo": {"n_virtual": "virtual", "r_max": "best"},
    "overlong": {"L_max": "max_length", "L_cache": "buffer"},
    "pro_grpo": {"low_prob_frac": "share"},
    "qae": {"K": "quantile"},
    "r3": {"p": "share", "R_max": "most"},
    "stapo": {"tau_p": "probability"},
    "stare": {"P": "top_share", "W": "w", "M": "m", "H_tgt": "target_entropy"},
    "steer": {"w_min": "low", "w_max": "high"},
    "tis": {"C": "high"},
    "veto": {"veto": "threshold"},
    "verl": {"ema_alpha": "rate", "max_seq_len": "longest"},
    "w_reinforce": {"lam": "coef"},
    # Terms.
    "aspo": _DUAL_CLIPS,
    "ce_gppo": _DUAL_CLIPS,
    "cispo": _CLIPS,
    "clip": _DUAL_CLIPS,
    "demonstration_nll": {"sft_coef": "coef"},
    "dgpo": _CLIPS,
    "entropy": {"beta": "coef"},
    "gmpo": {**_CLIPS, "clip": "low high"},
    "gspo": _CLIPS,
    "gspo_token": _CLIPS,
    "hapo_clip": _DUAL_CLIPS,
    "lp_reg_clip": _CLIPS,
    "positive_nll": {"mu": "coef"},
    "sapo": {"tau_pos": "positive", "tau_neg": "negative"},
    "smoothed_entropy": {
        "kappa_l": "low",
        "kappa_r": "high",
        "smooth_coef": "smooth",
        "entropy_coef": "coef",
    },
    "st_ppo": _CLIPS,
}
"""By part: a paper's name of a setting, and ours, or the two that it is here."""


def names_in_papers(part: str, setting: str) -> list[str]:
    """What else a setting of a part may be called."""
    return [name for name, own in PAPER_NAMES.get(part, {}).items() if setting in own.split()]


def in_our_words(part: str, given: Any) -> Any:
    """A part's settings by the names that they have here.

    Raises:
        ValueError: one is given by two names, with two values.
    """
    if not isinstance(given, Mapping):
        return given
    names, settings = PAPER_NAMES.get(part, {}), dict[Any, Any]()
    for name, value in given.items():
        for own in names[name].split() if name in names else [name]:
            if settings.setdefault(own, value) != value:
                raise ValueError(
                    f"{part}: {own} is {settings[own]!r}, and as {name} {value!r}: expected it once"
                )
    return settings
