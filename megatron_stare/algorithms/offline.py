"""Methods on plain lists, in one process: for notebooks, golden tests and other frameworks.

    credit, states = run_links("stare", samples)
    loss, losses, gradients = run_loss("stare", samples, credit)

A sample is a mapping; what no part needs may be missing:

    reward, group          of the sample; samples of one prompt share a group, any hashable
    mask                   1 or 0 a token: which the policy chose, by default all
    logprobs, entropies    of the policy before the step, nats a token
    rollout_logprobs       of the engine
    reference_logprobs     of the reference policy; `reference_entropies`
    verdict                1 or 0 of the sample, or in between; by default whether reward > 0
    demonstrated, guide    1 or 0 of the sample: written by no policy, and perhaps a guide
    truncated              1 or 0 of the sample: cut off at the length limit
    prompt                 what it answers, any hashable, by default its group
    min_p_logprobs         before the step without unlikely tokens, -1e4 of such a one
    hidden_ranks           of the sample: effective rank, means of its first and second differences
    prompt_logprobs        of the prompt's tokens but the first
    cut_values, cut_nodes  at tokens that begin a segment, else None: what the response is worth
                           before that token, and the token's node in the tree of its group
    turns                  of each token: the number of its turn, from 0, by default one for all
    profiles               of each turn: what a profiler says, `correct`, `speedup`, `coverage`
    turn_rewards, failed_calls
                           of each turn: its own reward, how many of its calls have failed
    anchors, roles         of each turn: the state that it was written in, and the player who wrote
                           it, any hashables
    advantages             where the chain starts, of the sample or a token, by default 0
    current_logprobs       of the policy that learns, by default `logprobs`
    current_entropies      by default `entropies`

A class of a notebook is a part by the name `__main__:Mine`. Values are float64; what a token
weighs in the mean is float32, as in training. Neither Megatron-Core nor transformers is imported.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from megatron_stare.algorithms.chain import Chain, first_credit
from megatron_stare.algorithms.config import AlgorithmConfig
from megatron_stare.algorithms.hooks import Component, Credit, Need, Step, Update
from megatron_stare.algorithms.lists import Samples, batch_of, column, flat, of_turns, per_token
from megatron_stare.algorithms.needs import (
    CUTS,
    DEMONSTRATED,
    FAILED_CALLS,
    GUIDED,
    OLD,
    PROFILES,
    PROMPT_LOGPROBS,
    REFERENCE,
    ROLES,
    ROLLOUT,
    TURN_REWARDS,
    TURNS,
    UNTRUNCATED,
    Cuts,
    HiddenRanks,
    MinPLogprobs,
    Profiles,
    PromptLogprobs,
    RankDynamics,
    facts_of_turns,
)
from megatron_stare.algorithms.objective import MethodObjective
from megatron_stare.algorithms.table import METHODS
from megatron_stare.ops.partials import TokenScores

Ragged = list[list[float]]
Links = str | Sequence[str | Mapping[str, Any]] | Mapping[str, Any]
"""A method's name, its links as in a config, or the whole `algorithm` section.

Links alone are those of the method that the last of them is named like, or of `grpo`: its clip
ranges are where the credit's start, and its terms are the loss.
"""


class Loss(NamedTuple):
    """The loss of a batch, of each token before the mean, and d loss / d log-prob of each."""

    loss: float
    losses: Ragged
    gradients: Ragged


def run_links(
    links: Links,
    samples: Samples,
    *,
    step: int = 1,
    progress: float = 0.0,
    states: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Ragged], dict[str, Any]]:
    """The credit that a chain decides, and the states of its links after the step.

        >>> samples = [{"reward": r, "group": 0, "logprobs": [-1.0, -2.0]} for r in (0, 1)]
        >>> credit, _ = run_links(["dr_grpo"], samples)
        >>> credit["advantages"]
        [[-0.5, -0.5], [0.5, 0.5]]

    Args:
        links: of the chain.
        samples: of the step, in the batch's order.
        step: its number, from 1.
        progress: the share of a run's steps that are done, from 0 to 1.
        states: what an earlier call has returned; None before the first step.

    Returns:
        `advantages`, `weights`, `counted`, `clip_low` and `clip_high`, a list of lists each, and
        so the marks that links leave for terms, by name; and the states, by link.

    Raises:
        KeyError: a link reads what the samples do not have.
        ValueError: no such link, wrong settings, no samples, or lists differ in length.
    """
    method = _method(links)
    view = _step(samples, step, progress, method.needs)
    _check_needs(method.links, view)
    chain = Chain(method)
    if states is not None:
        chain.load_state_dict(dict(states))
    credit = chain.apply(view, _start(method, view, samples))
    for link in method.late:
        credit = link.apply(credit, view, None)
    counts = view.batch.response_lengths.tolist()
    parts = {name: part.expand_as(view.mask) for name, part in credit._asdict().items()}
    parts |= {mark.name: view[mark] for link in method.links.values() for mark in link.marks}
    return {name: _ragged(part, counts) for name, part in parts.items()}, chain.state_dict()


def run_loss(
    method: Links, samples: Samples, credit: Mapping[str, Ragged], *, progress: float = 0.0
) -> Loss:
    """The terms of a method on a credit that `run_links` has decided.

        >>> samples = [{"logprobs": [-1.0, -2.0], "current_logprobs": [-0.5, -2.0]}]
        >>> credit = {"advantages": [[1.0, 1.0]]}
        >>> loss, losses, gradients = run_loss("grpo", samples, credit)
        >>> losses, round(loss, 6)
        ([[-1.28, -1.0]], -1.14)
        >>> gradients
        [[0.0, -0.5]]

    Args:
        method: its name, or links or section of a config; links are not run again.
        samples: of the step, in the batch's order.
        credit: any of its parts; the others are as before the first link.
        progress: the share of a run's steps that are done, from 0 to 1.

    Raises:
        KeyError: a term reads what the samples do not have.
        ValueError: as for `run_links`.
    """
    chosen = _method(method)
    view = _step(samples, 1, progress)
    decided = {name: per_token(name, rows, samples) for name, rows in credit.items()}
    for link in chosen.links.values():
        for mark in link.marks:
            view.facts[mark] = decided.pop(mark.name, torch.zeros(len(view.mask)).double())
    _check_needs({**chosen.policy, **chosen.terms}, view)
    start = first_credit(chosen, view, torch.float64)
    if "counted" in decided:
        decided["counted"] = decided["counted"].bool() & view.mask
    whole = start._replace(**decided)
    scores = _current_scores(samples, view, must_have_entropies=chosen.differentiates_entropy)
    leaf = scores.logprobs
    without_links = chosen.model_copy(update={"links": {}})
    objective = MethodObjective.of(without_links, view, Update(range(len(samples)), whole))
    loss, held = leaf.new_zeros(()), torch.zeros_like(leaf)
    for mean, (losses, _) in zip(objective.means, objective.token_losses(scores), strict=True):
        loss = loss + (mean.coefficients.double() * losses).sum()
        held += torch.where(mean.counted, losses.detach(), 0.0)
    (gradient,) = torch.autograd.grad(loss, leaf)
    counts = view.batch.response_lengths.tolist()
    return Loss(loss.item(), _ragged(held, counts), _ragged(gradient, counts))


def _current_scores(samples: Samples, view: Step, *, must_have_entropies: bool) -> TokenScores:
    """Scores under the weights of now, of which log-probs are a leaf; by default those of OLD."""
    logprobs = column(samples, "current_logprobs")
    entropies = column(samples, "current_entropies")
    old = view.facts.get(OLD)
    if logprobs is None and old is not None:
        logprobs = old.logprobs
    if logprobs is None:
        raise KeyError("current_logprobs: the samples have neither these nor logprobs")
    if entropies is None:
        entropies = column(samples, "entropies")
    if entropies is None and must_have_entropies:
        raise KeyError("current_entropies: the samples have neither these nor entropies")
    leaf = logprobs.clone().requires_grad_()
    nothing = torch.zeros_like(leaf)
    return TokenScores(leaf, nothing if entropies is None else entropies, nothing, nothing)


def _method(given: Links) -> AlgorithmConfig:
    section: Any = given
    if isinstance(given, str):
        section = {"method": given}
    elif not isinstance(given, Mapping):
        names = [name for item in given for name in ([item] if isinstance(item, str) else item)]
        method = next((name for name in reversed(names) if name in METHODS), "grpo")
        section = {"method": method, "links": list(given)}
    return AlgorithmConfig.model_validate(section)


def _step(samples: Samples, number: int, progress: float, needs: Iterable[Need[Any]] = ()) -> Step:
    given = batch_of(samples)
    batch = given.judged
    index, everyone = torch.arange(len(batch.loss_mask)), [range(len(samples))]
    step = Step(number, progress, batch, index, batch.sample_ids, batch.loss_mask, everyone)
    step.facts[DEMONSTRATED], step.facts[GUIDED] = given.tokens_of_demonstrations
    step.facts.update(facts_of_turns(batch))
    nothing = torch.zeros(len(index), dtype=torch.float64)
    for need in (OLD, REFERENCE):
        name = _NAMES[need]
        if (logprobs := column(samples, name)) is not None:
            entropies = column(samples, name.replace("logprobs", "entropies"))
            known = torch.full_like(nothing, math.nan) if entropies is None else entropies
            step.facts[need] = TokenScores(logprobs, known, nothing, nothing)
    if column(samples, "rollout_logprobs") is not None:
        step.facts[ROLLOUT] = step.facts[UNTRUNCATED] = batch.rollout_logprobs
    if all(sample.get("prompt_logprobs") is not None for sample in samples):
        of_samples = [flat([sample["prompt_logprobs"]]) for sample in samples]
        step.facts[PROMPT_LOGPROBS] = PromptLogprobs(of_samples)
    values, nodes = column(samples, "cut_values"), column(samples, "cut_nodes")
    if values is not None or nodes is not None:
        values = torch.full_like(nothing, math.nan) if values is None else values
        nodes = torch.full_like(nothing, math.nan) if nodes is None else nodes
        step.facts[CUTS] = Cuts(values, nodes.nan_to_num(nan=-1.0).long())
    if all(sample.get("profiles") is not None for sample in samples):
        step.facts[PROFILES] = Profiles(**of_turns("profiles", samples, _PROFILE))
    for need in needs:
        if (fact := _of_head(need, samples)) is not None:
            step.facts[need] = fact
    return step


def _of_head(need: Need[Any], samples: Samples) -> Any:
    """What the samples say of it, whatever its settings; None if it is another, or they do not."""
    if isinstance(need, HiddenRanks) and all("hidden_ranks" in sample for sample in samples):
        return RankDynamics(torch.tensor([s["hidden_ranks"] for s in samples], dtype=torch.float64))
    return column(samples, "min_p_logprobs") if isinstance(need, MinPLogprobs) else None


_PROFILE = ("correct", "speedup", "coverage")
_NAMES: dict[Need[Any] | type[Need[Any]], str] = {
    OLD: "logprobs",
    REFERENCE: "reference_logprobs",
    ROLLOUT: "rollout_logprobs",
    UNTRUNCATED: "rollout_logprobs",
    PROMPT_LOGPROBS: "prompt_logprobs",
    CUTS: "cut_values or cut_nodes",
    MinPLogprobs: "min_p_logprobs",
    HiddenRanks: "hidden_ranks",
    TURNS: "turns",
    PROFILES: "profiles",
    TURN_REWARDS: "turn_rewards",
    FAILED_CALLS: "failed_calls",
    ROLES: "roles",
}
"""Where each need is met."""


def _check_needs(parts: Mapping[str, Component], step: Step) -> None:
    for name, part in parts.items():
        for need in part.needs:
            if not step.knows(need):
                given = _NAMES.get(need, _NAMES.get(type(need), "them"))
                raise KeyError(f"{name} reads {need.name}: not every sample has {given}")


def _start(method: AlgorithmConfig, step: Step, samples: Samples) -> Credit:
    credit = first_credit(method, step, torch.float64)
    if not any("advantages" in sample for sample in samples):
        return credit
    rows = [sample.get("advantages", 0.0) for sample in samples]
    return credit.with_advantages(per_token("advantages", rows, samples))


def _ragged(values: Tensor, counts: Sequence[int]) -> Ragged:
    return [part.tolist() for part in values.split(list(counts))]
