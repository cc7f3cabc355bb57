"""The glossary: every metric a run may log, with its unit and what it means."""

from __future__ import annotations

import re

from megatron_stare.algorithms.metric import Metric
from megatron_stare.algorithms.table import PARTS
from megatron_stare.config.data import SOURCE_NAME

PAIRS: dict[str, Metric] = {
    "pairs/loss": Metric("1", "Loss of a pair."),
    "pairs/accuracy": Metric("share", "Pairs whose better response has the larger reward."),
    "pairs/margin": Metric("1", "Reward of the better response, minus that of the worse."),
    "pairs/reward_chosen": Metric("1", "Reward of the better response."),
    "pairs/reward_rejected": Metric("1", "Reward of the worse response."),
    "pairs/logprob_chosen": Metric("nats", "Log-prob of the whole better response."),
    "pairs/logprob_rejected": Metric("nats", "Log-prob of the whole worse response."),
}

TURNS: dict[str, Metric] = {
    "turns/mean": Metric("count", "Turns of the model in an episode."),
    "turns/p25": Metric("count", "The 25th percentile of turns of the model in an episode."),
    "turns/p50": Metric("count", "The median."),
    "turns/p75": Metric("count", "The 75th percentile: a limit for `max_turns` (docs/turns.md)."),
    "turns/void_share": Metric("share", "Turns of the model with neither an answer nor a call."),
    "turns/put_in_share": Metric(
        "share", "Response tokens that the policy did not choose: what tools said, and templates."
    ),
    "turns/ended_stop": Metric("count", "Samples that ended with an answer."),
    "turns/ended_length": Metric("count", "At a limit of tokens."),
    "turns/ended_turns": Metric("count", "At the limit of turns or calls, with another call."),
    "turns/ended_seconds": Metric("count", "At the limit of time."),
    "turns/ended_void": Metric("count", "With a void turn, and are not learned from."),
    "turns/ended_failed": Metric(
        "count", "Left out: a tool failed for a reason that is not the model's, again and again."
    ),
    "tools/calls_mean": Metric("count", "Calls that a sample made."),
    "tools/used_share": Metric("share", "Samples that made a call."),
    "tools/invalid_share": Metric("share", "Of the calls that were written, those of no use."),
    "tools/ok_share": Metric("share", "Of the calls that were made, those that went well."),
}

METRICS: dict[str, Metric] = {
    "entropy/mean": Metric("nats", "Mean token entropy of the policy."),
    "entropy/surprisal_mean": Metric(
        "nats", "Mean surprisal of the response tokens, a Monte-Carlo estimate of the entropy."
    ),
    "entropy/turn_{n}": Metric(
        "nats", "Mean entropy of the model's first turn, its second, ...; of episodes with tools."
    ),
    "quadrant/pos_high_share": Metric("share", "Positive advantage, high surprisal."),
    "quadrant/pos_low_share": Metric("share", "Positive advantage, low surprisal."),
    "quadrant/neg_high_share": Metric("share", "Negative advantage, high surprisal."),
    "quadrant/neg_low_share": Metric("share", "Negative advantage, low surprisal."),
    "quadrant/pos_high_entropy": Metric("nats", "Mean entropy there."),
    "quadrant/pos_low_entropy": Metric("nats", "Mean entropy there."),
    "quadrant/neg_high_entropy": Metric("nats", "Mean entropy there."),
    "quadrant/neg_low_entropy": Metric("nats", "Mean entropy there."),
    "reward/mean": Metric("1", "Mean reward: verdict plus shaping, what advantages are made of."),
    "reward/accuracy": Metric(
        "share", "Mean verdict of the samples that are judged, before any group is dropped."
    ),
    "reward/solve_all": Metric("share", "Groups in which every sample is correct."),
    "reward/solve_none": Metric("share", "Groups in which no sample is correct."),
    "reward/signal_share": Metric(
        "share", "Groups whose verdicts differ, before any is dropped: the rest teaches nothing."
    ),
    "reward/distinct_answers": Metric(
        "count", "Different final answers in a group, mean over groups before any is dropped."
    ),
    "reward/accuracy_of_all": Metric(
        "share",
        "What accuracy would be over all problems: that of those drawn, each by 1 / propensity; of "
        "curricula that know it.",
    ),
    "reward/tail_share": Metric(
        "share", "Responses with text behind their final box: what a verifier may not look at."
    ),
    "reward/repeated_share": Metric(
        "share", "Responses that repeat themselves: half of their runs of 8 tokens came before."
    ),
    "reward/zero_advantage_share": Metric(
        "share", "Groups of the batch in which no token has an advantage: nothing is learned."
    ),
    "reward/failures": Metric(
        "count",
        "Samples whose verifier gave no number. Where it raised or was too slow they are wrong; "
        "where its process died, ran out of memory or could not be started they are left out.",
    ),
    "rollout/drawn": Metric("count", "Prompts that the step drew from the data."),
    "rollout/completed": Metric("count", "Prompts whose group entered the batch."),
    "rollout/filtered": Metric(
        "count", "Prompts whose group was dropped: no learning signal, surplus, or too few judged."
    ),
    "rollout/failed": Metric("count", "Prompts that the engine could not answer."),
    "rollout/aborted": Metric("count", "Prompts stopped because the batch was already full."),
    "rollout/carried": Metric(
        "count", "Prompts whose group goes on in the next step: partial rollouts, or surplus."
    ),
    "rollout/staleness_mean": Metric(
        "steps", "Mean age of the batch's tokens: weights trained, minus weights that sampled."
    ),
    "rollout/staleness_max": Metric("steps", "Age of the oldest of them."),
    "rollout/generated_tokens": Metric("tokens", "Response tokens that this step generated."),
    "rollout/rounds": Metric("count", "Generation rounds that dynamic sampling took."),
    "rollout/demonstrations": Metric(
        "count", "Groups in whose place a demonstration is learned from; of data that has them."
    ),
    "rollout/guides": Metric(
        "count", "Groups in whose place a demonstration is a guide; of data that has them."
    ),
    "rollout/replayed": Metric(
        "count", "Samples of earlier steps in the batch; of methods that replay."
    ),
    "rollout/propensity_min": Metric(
        "1",
        "Smallest probability with which a problem of the step was drawn; of curricula that know.",
    ),
    "rollout/response_tokens_mean": Metric("tokens", "Mean response length."),
    "rollout/response_tokens_p95": Metric("tokens", "95th percentile of the response length."),
    "rollout/long_token_share": Metric(
        "share", "Tokens of responses that are longer than 95% of them."
    ),
    "rollout/truncated_share": Metric("share", "Responses cut at the length limit."),
    "source/{name}/drawn": Metric("count", "Prompts of it that the step drew."),
    "source/{name}/completed": Metric("count", "Its groups in the batch."),
    "source/{name}/reward": Metric("1", "As reward/mean, of its samples."),
    "source/{name}/accuracy": Metric("share", "As reward/accuracy, of its samples."),
    "source/{name}/signal_share": Metric("share", "As reward/signal_share, of its groups."),
    "source/{name}/failures": Metric("count", "As reward/failures, of its samples."),
    "source/{name}/response_tokens_mean": Metric("tokens", "Mean length of its responses."),
    "source/{name}/truncated_share": Metric("share", "Its responses cut at the length limit."),
    **TURNS,
    "loss/total": Metric("1", "The minimised loss."),
    "loss/clip_low_share": Metric("share", "Tokens whose ratio is clipped from below."),
    "loss/clip_high_share": Metric("share", "Tokens whose ratio is clipped from above."),
    "loss/dual_clip_share": Metric("share", "Tokens whose loss is capped by the dual clip."),
    "loss/kl_reference": Metric(
        "nats", "KL penalty towards the starting policy, before its weight."
    ),
    "mismatch/kl": Metric(
        "nats", "Mean of engine minus trainer log-prob: estimates KL(sampling policy, policy)."
    ),
    "mismatch/mean": Metric("nats", "Mean absolute difference of the log-probs."),
    "mismatch/max": Metric("nats", "Largest absolute difference of the log-probs."),
    "mismatch/p999": Metric("nats", "99.9th percentile of the absolute difference."),
    "mismatch/ess": Metric(
        "share",
        "Effective sample size of the loss tokens under the ratios policy / engine: "
        "(sum of ratios)^2 / (tokens * sum of squared ratios). 1 without mismatch.",
    ),
    "mismatch/corrected_share": Metric(
        "share", "Tokens whose ratio is outside the correction's band: truncated or dropped."
    ),
    "mismatch/correction_mean": Metric(
        "1", "Mean factor of the correction: what it leaves of the loss; 1 without one."
    ),
    "optim/grad_norm": Metric("1", "Global gradient norm before clipping."),
    "optim/lr": Metric("1", "Learning rate of the update."),
    "optim/skipped": Metric("count", "Updates skipped because loss or gradient was not finite."),
    "time/generate_s": Metric("seconds", "Generation and verification."),
    "time/tools_s": Metric(
        "seconds", "A sample's wait for its tools, mean; within time/generate_s."
    ),
    "time/prepass_s": Metric("seconds", "Log-probs and entropies of the policy before the update."),
    "time/update_s": Metric("seconds", "Forward, backward and optimizer."),
    "time/dump_s": Metric(
        "seconds", "Log-probs after the update, of the tokens that log.dump_tokens asks for."
    ),
    "time/sync_s": Metric("seconds", "New weights to the engine, before the step."),
    "time/eval_s": Metric(
        "seconds",
        "Held-out evaluation, logged with its results; with eval.asynchronous the wait for it.",
    ),
    "time/save_s": Metric("seconds", "Writing the policy."),
    "time/checkpoint_s": Metric("seconds", "Held up by a checkpoint, after the step before."),
    "time/step_s": Metric(
        "seconds", "The phases of the step together; evaluation is not among them."
    ),
    "time/processor_s": Metric(
        "seconds",
        "Processor time of the first trainer's process in these phases, all its threads: what a "
        "step costs on a CPU that others use, too. Verifiers and servers are processes of their "
        "own.",
    ),
    "perf/tokens_per_s": Metric("tokens/s", "Prompt and response tokens of the batch per second."),
    "perf/rollout_tokens_per_s": Metric(
        "tokens/s", "Response tokens generated, per second that collecting the batch took."
    ),
    "eval/problems": Metric("count", "Problems that were asked."),
    "eval/avg_at_k": Metric(
        "share", "Mean verdict over k samples per problem; of several sets, the mean over them."
    ),
    "eval/avg_at_k_se": Metric(
        "share", "Its standard error, over problems; missing with a single problem."
    ),
    "eval/pass_at_{k}": Metric("share", "Chance that one of k samples is correct (unbiased)."),
    "eval/maj_at_k": Metric(
        "share",
        "Verdict on the most frequent final answer of k samples, mean over problems; of answers "
        "that are as frequent, the mean. Missing where k is 1.",
    ),
    "eval/failures": Metric(
        "count", "Samples whose verifier gave no number, as reward/failures; missing without any."
    ),
    "eval/response_tokens_mean": Metric("tokens", "Mean response length."),
    "eval/truncated_share": Metric("share", "Responses cut off at the length limit."),
    **{
        f"eval/{part}/{{name}}/{name}": Metric(unit, f"As eval/{name}, of a {part}'s problems.")
        for part in ("source", "set")
        for name, unit in {
            "problems": "count",
            "avg_at_k": "share",
            "avg_at_k_se": "share",
            "pass_at_{k}": "share",
            "maj_at_k": "share",
            "failures": "count",
            "response_tokens_mean": "tokens",
            "truncated_share": "share",
        }.items()
    },
    **{
        f"eval/{name.replace('/', '_')}": Metric(metric.unit, f"Held out: {metric.description}")
        for name, metric in (PAIRS | TURNS).items()
    },
    "eval/time_tools_s": Metric("seconds", "A sample's wait for its tools, mean."),
    "sft/loss": Metric("nats", "Mean negative log-likelihood of the response tokens."),
    **PAIRS,
    "own/{name}": Metric("1", "Any name, of letters, digits and `_`, with `/` between."),
    **{name: metric for kind in PARTS.values() for name, metric in kind.metrics.items()},
}

_PASS_AT = re.compile(r"eval/pass_at_[1-9][0-9]{0,8}")
_OF_SOURCE = re.compile(rf"((?:eval/)?source)/({SOURCE_NAME})/(.+)")
_OF_SET = re.compile(rf"eval/set/({SOURCE_NAME})/(.+)")
_TURN = re.compile(r"entropy/turn_[1-9][0-9]{0,8}")
_OWN = re.compile(r"own/\w{1,80}(/\w{1,80}){0,4}", re.ASCII)


def find_metric(name: str) -> Metric:
    """The glossary's entry for a logged name; `eval/pass_at_8` is found as `eval/pass_at_{k}`.

    Raises:
        KeyError: the name is not in the glossary.
    """
    if of_set := _OF_SET.fullmatch(name):
        within = f"eval/{of_set[2]}"  # What is said of all is said of a set, and of its sources.
        return METRICS.get(f"eval/set/{{name}}/{of_set[2]}") or find_metric(within)
    key = "own/{name}" if _OWN.fullmatch(name) else name
    key = "entropy/turn_{n}" if _TURN.fullmatch(name) else key
    if of_source := _OF_SOURCE.fullmatch(name):
        key = f"{of_source[1]}/{{name}}/{of_source[3]}"
    group, _, last = key.rpartition("/")
    if key.startswith("eval/") and is_pass_at(f"eval/{last}"):
        key = f"{group}/pass_at_{{k}}"
    if key not in METRICS:
        raise KeyError(f"metric {name!r} is not in the glossary, megatron_stare.observe.metrics")
    return METRICS[key]


def targets_of(name: str) -> list[str]:
    """The metrics that are targets of this one."""
    return [target for target, metric in METRICS.items() if metric.target_of == name]


def source_of(name: str) -> str | None:
    """The source that a metric is of, if it is of one."""
    found = _OF_SOURCE.fullmatch(name)
    return found and found[2]


def is_pass_at(name: str) -> bool:
    """Whether it is the name of pass@k, for some k."""
    return _PASS_AT.fullmatch(name) is not None
