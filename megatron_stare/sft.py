"""Supervised fine-tuning: packed examples, mean negative log-likelihood of their responses."""

from __future__ import annotations

from megatron_stare.algorithms.chain import first_credit
from megatron_stare.algorithms.hooks import Update
from megatron_stare.algorithms.method import Method
from megatron_stare.algorithms.objective import MethodObjective
from megatron_stare.algorithms.terms.nll import Nll
from megatron_stare.config.commands import SftConfig
from megatron_stare.data.examples import ExampleSet
from megatron_stare.data.packing import Share
from megatron_stare.data.tokenizer import check_vocabulary, load_tokenizer
from megatron_stare.launch.rank_zero import from_rank_zero
from megatron_stare.observe.health import Health
from megatron_stare.policy.step import Policy
from megatron_stare.run.facts import open_step
from megatron_stare.run.saving import keep_saving, open_folder
from megatron_stare.run.session import Session, open_session, open_world
from megatron_stare.system.signals import stop_requests
from megatron_stare.types import TokenBatch


def sft(config: SftConfig) -> None:
    """Fine-tune a policy as the config says, and write it to `hf/final` in the run's folder.

    Raises:
        UserError: bad input, before any GPU time where possible.
        Stopped: the run was asked to stop, and is saved.
    """
    with stop_requests(config.checkpoint.grace_s) as stop, open_world(config) as world:
        world.shape.check_positions("data.max_tokens", config.data.max_tokens)
        examples = from_rank_zero(lambda: _read_examples(config, world.shape.vocab_size))
        world.loggers.message(str(examples.report))
        if examples.num_prefilled:
            world.loggers.message(
                f"{examples.num_prefilled} responses begin as the template begins them in the "
                "prompt; it is learned from none of them"
            )
        session = open_session(
            config,
            world,
            num_updates=config.sft.steps,
            temperature=1.0,
            max_tokens_per_micro_batch=config.sft.max_tokens_per_micro_batch,
        )
        last, health = config.sft.steps, Health()
        with keep_saving(config, world, session, stop, num_steps=last) as saving:
            if world.resumed is not None:
                with world.resumed.reading() as state:
                    examples.load_state_dict(state["examples"])
            open_folder(config, world)
            if saving.step == last:  # It was to be longer when it was saved, or is over.
                session.save_final(last)
            for step in range(saving.step + 1, last + 1):
                batch = examples.draw(config.sft.examples_per_step)
                metrics = sft_step(session, batch, config.sft.max_bad_updates)
                session.loggers.log(step, metrics)
                for news in health.news(step, metrics):
                    session.loggers.message(news)
                if step == last:
                    session.save_final(last)
                saving.save_if_due(step, lambda: {"examples": examples.state_dict()})


def _read_examples(config: SftConfig, vocab_size: int) -> ExampleSet:
    tokenizer = load_tokenizer(config.model.path)
    check_vocabulary(tokenizer, vocab_size)
    return ExampleSet(config.data, tokenizer, seed=config.run.seed)


SUPERVISED = Method(policy={"nll": Nll()})
"""Mean negative log-likelihood over the response tokens of the global batch."""


def supervised_objective(batch: TokenBatch, share: Share, policy: Policy) -> MethodObjective:
    """What an update minimises; nothing of it depends on the step."""
    step = open_step(batch, share, 1, 1, device=policy.device, dp_group=policy.groups.dp)
    everyone = Update(range(len(batch)), first_credit(SUPERVISED, step))
    return MethodObjective.of(SUPERVISED, step, everyone)


def sft_step(session: Session, batch: TokenBatch, max_bad_updates: int) -> dict[str, float]:
    """One update on a batch; returns its metrics."""
    share = session.plan(batch, [list(range(len(batch)))])
    objective = supervised_objective(batch, share, session.policy)
    with session.phase("update", len(share.index)) as advance:
        result = session.policy.update(batch, share.micro_batches, objective, advance)
    session.check(result, max_bad_updates)
    return {
        "sft/loss": result.loss,
        "optim/grad_norm": result.grad_norm,
        "optim/lr": result.lr,
        "optim/skipped": float(result.skipped),
        **session.take_timings(int(batch.lengths.sum())),
    }
