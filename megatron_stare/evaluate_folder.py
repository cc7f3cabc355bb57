"""`megatron-stare eval`: avg@k and pass@k of a Hugging Face folder on a prompt set."""

from __future__ import annotations

import json

import torch

from megatron_stare.config.commands import EvalConfig
from megatron_stare.data.prompts import PromptSet
from megatron_stare.data.tokenizer import check_vocabulary, load_tokenizer
from megatron_stare.engines.embedded import EmbeddedEngine
from megatron_stare.errors import UserError
from megatron_stare.launch.topology import read_topology
from megatron_stare.observe.console import Progress, open_console, print_line
from megatron_stare.rewards.scorer import Scorer
from megatron_stare.rollout.dump import dump_samples
from megatron_stare.rollout.evaluate import evaluate
from megatron_stare.rollout.stop_tokens import describe_stop_tokens, stop_token_sources
from megatron_stare.system.output import check_folder, make_folder, writing
from megatron_stare.weights.hf_config import read_hf_config


def evaluate_folder(config: EvalConfig) -> dict[str, float]:
    """Sample with the embedded engine, judge, and write the outcome to the run's folder.

    `eval.json` holds the metrics, `eval_samples.jsonl` every sample.

    Raises:
        UserError: bad input.
    """
    if config.eval.data is None:
        raise UserError("eval.data: missing, expected the problems to evaluate on")
    check_folder(config.run.dir, "run.dir")
    console = open_console(quiet=False)
    shape = read_hf_config(config.model.path)
    tokenizer = load_tokenizer(config.model.path)
    check_vocabulary(tokenizer, shape.vocab_size)
    problems = PromptSet(config.eval.data, tokenizer, seed=config.run.seed)
    print_line(console, str(problems.report))
    turn_form = problems.form
    sources = stop_token_sources(config.model.path, tokenizer, turn_ends=turn_form.turn_ends)
    print_line(console, describe_stop_tokens(sources, tokenizer))
    engine = EmbeddedEngine(
        config.model.path,
        tokenizer,
        device=read_topology().device,
        dtype=getattr(torch, config.model.dtype),
        max_batch_sequences=config.eval.max_batch_sequences,
        stop_ids=sources,
    )
    engine.load_weights(config.model.path, version=0)
    scorer = Scorer(
        config.reward,
        max_response_tokens=config.eval.max_response_tokens,
        prefill=turn_form.prefill,
        report=lambda text: print_line(console, text),
    )
    progress = Progress(console, bars=config.log.progress)
    with scorer, progress.phase("evaluate") as advance:
        evaluation = evaluate(
            engine,
            problems.all(),
            scorer,
            config.eval,
            seed=config.run.seed,
            on_progress=advance,
        )
    make_folder(config.run.dir, "run.dir")
    with writing(config.run.dir, "run.dir"):
        (config.run.dir / "eval.json").write_text(json.dumps(evaluation.metrics, indent=2) + "\n")
        dump_samples(config.run.dir / "eval_samples.jsonl", [], [], evaluation.groups)
    return evaluation.metrics
