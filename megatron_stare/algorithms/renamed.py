"""Keys of configs from before methods were chains, in today's words.

Such configs stand in the folders of runs that are read and gone on with. What was

    stare: {enabled: true, w: 1.2}
    algorithm: {advantage: rloo, clip_high: 0.3, kl: k3, kl_coef: 0.01, entropy_coef: 0.001,
                correction: {kind: icepop, high: 4}}

is now

    algorithm:
      links: [rloo, {stare: {w: 1.2}}, {icepop: {high: 4}}]
      clip: {high: 0.3}
      terms: [{kl: {estimator: k3, coef: 0.01}}, {entropy: {coef: 0.001}}]
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from megatron_stare.algorithms.table import METHODS
from megatron_stare.system.settings import Settings

_CLIPS = {"clip_low": "low", "clip_high": "high", "dual_clip": "dual"}
_ALGORITHM = {*_CLIPS, "advantage", "kl", "kl_coef", "entropy_coef", "correction"}


class _OldStare(Settings):
    model_config = ConfigDict(extra="allow")
    enabled: bool = True


class _OldKeys(BaseModel):
    stare: _OldStare | None = None


def renamed(tree: Any) -> Any:
    """A run's config in today's keys, where it has older ones.

    Raises:
        ValueError: an older key contradicts another.
    """
    if not isinstance(tree, dict):
        return tree
    algorithm = {} if tree.get("algorithm") is None else tree["algorithm"]
    if not isinstance(algorithm, dict):
        return tree
    is_old = {key for key in algorithm.keys() & _ALGORITHM if not _is_part(algorithm, key)}
    if not (is_old or "stare" in tree):
        return tree
    stare = _OldKeys.model_validate({"stare": tree.get("stare")}).stare or _OldStare()
    old = {key: algorithm[key] for key in algorithm if key in is_old}
    new = {key: algorithm[key] for key in algorithm if key not in is_old}
    if stare.model_extra:
        new["stare"] = {**stare.model_extra, **(new.get("stare") or {})}
    new = _with_terms(_with_links(new, old, is_enabled=stare.enabled), old)
    return {**{key: tree[key] for key in tree if key != "stare"}, "algorithm": new}


def _is_part(algorithm: dict[str, Any], key: str) -> bool:
    """`kl` is a part's section, too."""
    return key == "kl" and isinstance(algorithm[key], dict)


def _with_links(new: dict[str, Any], old: dict[str, Any], *, is_enabled: bool) -> dict[str, Any]:
    correction = old.get("correction") or {}
    if not isinstance(correction, dict):
        raise ValueError(f"algorithm.correction: expected a section of keys, found {correction!r}")
    settings = {key: correction[key] for key in correction if key != "kind"}
    settings = {key: value for key, value in settings.items() if value is not None}
    kind = correction.get("kind", "auto")
    if kind in ("auto", "none") and settings not in ({}, {"level": "token"}):
        raise ValueError(
            f"algorithm.correction.kind={kind!r} with {settings}: these belong to a correction, "
            "set its kind"
        )
    links = new.get("links", _preset_links(new.get("method", "stare")))
    links = list(links) if isinstance(links, list | tuple | dict) else links
    if not isinstance(links, list):
        return new
    if "advantage" in old:
        links[:1] = [old["advantage"]]
    if not is_enabled:
        links = [link for link in links if link != "stare" and not _is_of(link, "stare")]
        new = {**new, "method": "grpo"}
    if kind == "none":
        return {**new, "links": links, "correct_stale": False}
    return {**new, "links": links if kind == "auto" else [*links, {kind: settings}]}


def _is_of(link: Any, name: str) -> bool:
    """Whether it is a part's name with its settings."""
    return isinstance(link, dict) and name in link


def _preset_links(method: Any) -> list[str] | None:
    return list(METHODS[method].links) if isinstance(method, str) and method in METHODS else None


def _with_terms(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    clip = {_CLIPS[key]: old[key] for key in _CLIPS if key in old}
    if clip:
        new = {**new, "clip": {**clip, **(new.get("clip") or {})}}
    kl, coef = old.get("kl", "none"), old.get("kl_coef", 0.0)
    has_coef = coef not in (0, None)
    if (kl not in ("none", None)) != has_coef:
        raise ValueError(f"algorithm.kl={kl!r} with kl_coef={coef}: set both or neither")
    terms = list(new.get("terms") or [])
    if has_coef:
        terms.append({"kl": {"estimator": kl, "coef": coef}})
    if old.get("entropy_coef") not in (0, None):
        terms.append({"entropy": {"coef": old["entropy_coef"]}})
    return {**new, "terms": terms} if terms else new
