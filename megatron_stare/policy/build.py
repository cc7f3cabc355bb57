"""From a config to a policy: platform, groups, model, weights, data parallelism, optimizer."""

from __future__ import annotations

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.transformer.module import MegatronModule

from megatron_stare.config.policy import ModelConfig, OptimConfig, ParallelConfig
from megatron_stare.launch.rank_zero import on_every_rank
from megatron_stare.model_shape import ModelShape
from megatron_stare.policy.groups import ParallelGroups
from megatron_stare.policy.model import build_model, named_parameters
from megatron_stare.policy.platform import quietly
from megatron_stare.policy.step import Policy, sum_gradients
from megatron_stare.weights.load import load_hf_weights


def build_policy(
    shape: ModelShape,
    groups: ParallelGroups,
    *,
    model: ModelConfig,
    parallel: ParallelConfig,
    optim: OptimConfig,
    num_updates: int,
    temperature: float,
    seed: int,
    device: torch.device,
) -> Policy:
    """A policy with this rank's weights in place.

    Args:
        shape: the network, from the Hugging Face folder `model.path`.
        groups: this rank's process groups.
        num_updates: optimizer updates of the whole run; the learning rate decays over them.
        temperature: sampling temperature, which divides the logits of every log-prob.

    Raises:
        UserError: the folder's weights do not fit the shape, or are not finite.
    """
    chunks = build_model(shape, model, parallel, groups, seed=seed)
    if not model.random_init:
        parts = {"tp_rank": groups.tp.rank(), "tp_size": groups.tp.size()}
        parameters = named_parameters(chunks)
        on_every_rank(lambda: load_hf_weights(parameters, model.path, shape, **parts))
    with quietly():
        wrapped = [wrap_for_data_parallelism(chunk, groups) for chunk in chunks]
    optimizer = _optimizer(wrapped, model, optim, groups)
    for chunk in wrapped:
        chunk.config.finalize_model_grads_func = sum_gradients
    return Policy(
        wrapped,
        optimizer,
        _scheduler(optimizer, optim, num_updates),
        shape,
        groups,
        temperature=temperature,
        device=device,
    )


def wrap_for_data_parallelism(
    chunk: MegatronModule, groups: ParallelGroups
) -> DistributedDataParallel:
    """Give a chunk its buffers of parameters and float32 gradients."""
    return DistributedDataParallel(
        config=chunk.config,
        ddp_config=DistributedDataParallelConfig(
            grad_reduce_in_fp32=True, use_distributed_optimizer=True
        ),
        module=chunk,
        pg_collection=groups.collection,
    )


def _optimizer(
    model: list[DistributedDataParallel],
    config: ModelConfig,
    optim: OptimConfig,
    groups: ParallelGroups,
) -> MegatronOptimizer:
    dtype = getattr(torch, config.dtype)
    return get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=optim.lr,
            min_lr=optim.min_lr,
            weight_decay=optim.weight_decay,
            adam_beta1=optim.beta1,
            adam_beta2=optim.beta2,
            adam_eps=optim.eps,
            clip_grad=optim.clip_grad,
            bf16=dtype == torch.bfloat16,
            params_dtype=dtype,
            use_distributed_optimizer=True,
        ),
        [*model],
        use_gloo_process_groups=False,
        pg_collection=groups.collection,
    )


def _scheduler(
    optimizer: MegatronOptimizer, optim: OptimConfig, num_updates: int
) -> OptimizerParamScheduler:
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=optim.lr,
        min_lr=optim.min_lr,
        lr_warmup_steps=optim.warmup_steps,
        lr_decay_steps=max(num_updates, optim.warmup_steps + 1),
        lr_decay_style=optim.decay,
        start_wd=optim.weight_decay,
        end_wd=optim.weight_decay,
        wd_incr_steps=num_updates,
        wd_incr_style="constant",
    )
