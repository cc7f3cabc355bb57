"""RoPE in a Hugging Face `config.json`: its parameters, checked, and YaRN's attention factor."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

_KEYS: dict[str, tuple[set[str], set[str]]] = {
    "default": (set(), set()),
    "linear": ({"factor"}, set()),
    "llama3": (
        {"factor", "low_freq_factor", "high_freq_factor"},
        {"original_max_position_embeddings"},
    ),
    "yarn": (
        {"factor"},
        {"original_max_position_embeddings", "attention_factor", "attn_factor", "truncate"}
        | {"beta_fast", "beta_slow", "mscale", "mscale_all_dim"},
    ),
}
"""RoPE types, each with the parameters it needs and those it may have."""
_OF_ALL = {"rope_theta", "partial_rotary_factor"}


class _Parameters(BaseModel):
    """Parameters of all types, and what they may be."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    rope_theta: float = Field(10_000.0, gt=1)
    partial_rotary_factor: float = Field(1.0, ge=1, le=1)
    factor: float = Field(1.0, gt=0)
    low_freq_factor: float = Field(1.0, gt=0)
    high_freq_factor: float = Field(math.inf, gt=0)
    original_max_position_embeddings: int = Field(1, ge=1)
    attention_factor: float | None = Field(None, gt=0)
    attn_factor: float = Field(1.0, gt=0)
    truncate: bool = True
    beta_fast: float | None = Field(None, ge=0)
    beta_slow: float | None = Field(None, ge=0)
    mscale: float | None = Field(None, ge=0)
    mscale_all_dim: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _low_is_below_high(self) -> _Parameters:
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor={self.low_freq_factor} is no less than "
                f"high_freq_factor={self.high_freq_factor}"
            )
        return self


def read_rope(
    parameters: dict[str, Any], *, theta: float | None, max_positions: int
) -> tuple[float, dict[str, Any] | None]:
    """RoPE base, and `rope_type` with its parameters where they scale it.

    Args:
        parameters: `rope_parameters` of transformers 5, or `rope_scaling` of before.
        theta: `rope_theta` beside them, in use where they have none.

    Raises:
        ValueError: the type is not implemented, or a parameter is missing, unknown or out of range.
    """
    named = dict(parameters)
    old_name = named.pop("type", None)
    rope_type = named.pop("rope_type", old_name or "default")
    if old_name not in (None, rope_type):
        raise ValueError(f"rope_type={rope_type!r} with type={old_name!r}; expected one of them")
    if rope_type not in _KEYS:
        raise ValueError(
            f"rope_type={rope_type!r} is not supported; expected one of {', '.join(_KEYS)}"
        )
    needed, optional = _KEYS[rope_type]
    given = named.keys() - _OF_ALL
    if not needed <= given <= needed | optional:
        raise ValueError(
            f"rope_type={rope_type!r} with parameters {sorted(given)}; "
            f"expected {sorted(needed)}, and allowed {sorted(optional)}"
        )
    if theta is not None:
        named.setdefault("rope_theta", theta)
    if "original_max_position_embeddings" in optional:
        named.setdefault("original_max_position_embeddings", max_positions)
    checked = _Parameters.model_validate(named)
    scaling = {"rope_type": rope_type} | {
        key: value for key, value in named.items() if key not in _OF_ALL
    }
    return checked.rope_theta, None if rope_type == "default" else scaling


def attention_factor(scaling: dict[str, Any] | None) -> float:
    """By how much queries and keys are scaled beside the rotation: 1 except for `yarn`.

    As transformers reads it, which has never known `attn_factor`.
    """
    if scaling is None or scaling["rope_type"] != "yarn":
        return 1.0
    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    mscale, mscale_all_dim = scaling.get("mscale"), scaling.get("mscale_all_dim")
    if mscale and mscale_all_dim:
        return _magnitude(scaling, mscale) / _magnitude(scaling, mscale_all_dim)
    return _magnitude(scaling)


def sglang_attention_factor(scaling: dict[str, Any] | None) -> float:
    """The same as SGLang reads it: times `attn_factor`, and without `attention_factor`."""
    if scaling is None or scaling["rope_type"] != "yarn":
        return 1.0
    mscale, mscale_all_dim = scaling.get("mscale"), scaling.get("mscale_all_dim")
    given = float(scaling.get("attn_factor", 1.0))
    if mscale is None or mscale_all_dim is None:
        return _magnitude(scaling) * given
    return _magnitude(scaling, mscale) / _magnitude(scaling, mscale_all_dim) * given


def check_factors_agree(scaling: dict[str, Any] | None) -> None:
    """Refuse a factor that transformers, and with it the trainer, and SGLang read differently.

    Raises:
        ValueError: they do; the message says what to write for both to read the same.
    """
    ours, theirs = attention_factor(scaling), sglang_attention_factor(scaling)
    if math.isclose(ours, theirs, rel_tol=1e-6) or scaling is None:
        return
    if "attn_factor" in scaling:
        key, value, both = "attention_factor", theirs, theirs
    else:
        key, value, both = "attn_factor", ours / theirs, ours
    raise ValueError(
        f"YaRN scales queries and keys by {ours:.6g} as transformers and the trainer read it, by "
        f'{theirs:.6g} as SGLang does: add "{key}": {value!r} to its rope_scaling, and both read '
        f"{both:.6g}"
    )


def _magnitude(scaling: dict[str, Any], multiplier: float = 1.0) -> float:
    return 0.1 * multiplier * math.log(max(scaling["factor"], 1.0)) + 1.0
