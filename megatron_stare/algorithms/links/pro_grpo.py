"""ProGRPO: answers that the policy is surer of than of the prompt gain less."""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_stare.algorithms.advantages import Groups
from megatron_stare.algorithms.batch_stats import Grouping
from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.needs import OLD, PROMPT_LOGPROBS
from megatron_stare.ops.selection import share_of
from megatron_stare.system.values import Share, Weight


class ProGrpo(Link[None]):
    """A + alpha (c(prompt) - c(sample)), c = exp(mean log-prob of the least likely tokens).

    The paper's advantage re-weighting mechanism (ARM), which makes GRPO ProGRPO. It stands behind a
    baseline. Nothing changes in groups whose rewards sum to 0, nor, if so set, in those whose
    rewards are all alike. A prompt's first token has no log-prob. Shares are rounded
    up, which the paper leaves open, as is how the prompt's tokens are chosen.

    Source: ProGRPO, arXiv 2602.05281
    Status: paper
    """

    makes_advantages = True
    scope = "sample"
    needs = frozenset({OLD, PROMPT_LOGPROBS})

    alpha: Weight
    """How much confidence counts: not known of the paper."""
    share: Share = 0.2
    """How many of the tokens c is made of."""
    skips_equal: bool = False
    """Whether groups whose rewards are all alike are left as they are, right ones too."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Add the difference to every token of a sample."""
        rewards, groups = step.rollouts.rewards.double(), Groups(step.rollouts.group_ids)
        skipped = groups.sum(rewards) == 0
        if self.skips_equal:
            skipped |= groups.std(rewards) == 0
        of_prompts = [self._confidence(part) for part in step[PROMPT_LOGPROBS].of_samples]
        samples, logprobs = step.by(Grouping.by_sample), step[OLD].logprobs
        lowest = samples.top_share(-logprobs, self.share, credit.counted)
        of_answers = samples.of_tokens(samples.mean(logprobs, lowest)).exp()
        change = step.of_samples(torch.tensor(of_prompts)) - of_answers
        is_kept = step.of_samples((~skipped).double()) > 0
        return credit.with_advantages(credit.advantages + self.alpha * change * is_kept)

    def _confidence(self, logprobs: Tensor) -> float:
        lowest = logprobs.double().topk(share_of(self.share, len(logprobs)), largest=False).values
        return float(lowest.mean().exp()) if len(lowest) else 1.0
