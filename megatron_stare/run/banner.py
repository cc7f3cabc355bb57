"""What a person is told as a run begins and as it ends: what it is, and what to do with it."""

from __future__ import annotations

import torch

from megatron_stare.checkpoint.run_folder import HF
from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.loops import LoopConfig
from megatron_stare.config.prefer import PreferConfig
from megatron_stare.observe.history import FILE_NAME
from megatron_stare.run.session import World
from megatron_stare.weights.names import entries_of, num_parameters


def lines_of_start(config: LoopConfig, world: World) -> list[str]:
    """Model, layout, batch, method and folder of a run whose checks have all passed."""
    topology, first = world.topology, _first_step(world)
    count = num_parameters(entries_of(world.shape))
    device = "CPU"
    if topology.device.type == "cuda":
        device = torch.cuda.get_device_name(topology.device)
    layout = config.parallel.named(topology.world_size // config.parallel.replica)
    fields = {
        "model": f"{config.model.path}: {world.shape.family}, {_short(count)} parameters, "
        f"{config.model.dtype}",
        "trainers": f"{topology.world_size} x {device}, {layout}",
        "batch": _batch(config),
        "method": _method(config),
        "run": f"{config.run.dir}, steps {first} to {config.loop.steps}",
    }
    if first > config.loop.steps:
        fields["run"] = f"{config.run.dir}: nothing is left to do after step {first - 1}"
    return [f"{name:8}  {text}" for name, text in fields.items() if text]


def lines_of_end(config: LoopConfig) -> list[str]:
    """Where the outcome of a run is that came to its end, and what reads it."""
    folder = config.run.dir
    return [
        f"policy    {folder / HF / 'final'}, a Hugging Face folder: see megatron-stare eval",
        f"metrics   {folder / FILE_NAME}: megatron-stare report {folder} draws them",
    ]


def _first_step(world: World) -> int:
    return 1 if world.resumed is None else world.resumed.checkpoint.step + 1


def _short(count: int) -> str:
    """Such as `0.4 M` or `7.6 B`."""
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"


def _batch(config: LoopConfig) -> str:
    """What a step learns from."""
    if isinstance(config, TrainConfig):
        rollout = config.rollout
        return (
            f"{rollout.prompts_per_step} prompts x {rollout.samples_per_prompt} samples of at most "
            f"{rollout.max_response_tokens} tokens, engine {rollout.engine}; "
            f"{config.updates_per_step} update{'s' * (config.updates_per_step > 1)} a step"
        )
    if isinstance(config, PreferConfig):
        return f"{config.prefer.pairs_per_step} pairs"
    return f"{config.sft.examples_per_step} examples"


def _method(config: LoopConfig) -> str:
    """Its parts, and what is measured for them; nothing of supervised learning."""
    if isinstance(config, TrainConfig | PreferConfig):
        algorithm = config.algorithm
        parts = f"{', '.join(algorithm.links)}; {', '.join([*algorithm.policy, *algorithm.terms])}"
        needs = sorted(need.name for need in config.needs if need.passes)
        measured = f"; needs {', '.join(needs)}" if needs else ""
        return f"{algorithm.method}: {parts}{measured}"
    return ""
