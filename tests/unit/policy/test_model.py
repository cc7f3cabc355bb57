"""The model in one process: recompute, empty micro-batches, precision, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megatron_stare.config.policy import ModelConfig, ParallelConfig
from megatron_stare.errors import UserError
from megatron_stare.policy.head import HeadInputs, logprob_entropy_head
from megatron_stare.policy.model import build_model, padded_vocab_size
from megatron_stare.policy.packed import PackedMicroBatch, pack
from megatron_stare.weights.names import model_entries
from tests.models import make_hf_folder
from tests.policies import CPU, RaggedBatch, assert_close_relative, policy_pass
from tests.unit.policy.shapes import TINY

RANDOM = ModelConfig(path=Path("unused"), random_init=True)


def score(model, groups, packed: PackedMicroBatch):
    return model(
        input_ids=packed.input_ids,
        position_ids=packed.position_ids,
        attention_mask=None,
        packed_seq_params=packed.packed_seq_params,
        output_processor=logprob_entropy_head,
        output_processor_context=HeadInputs(packed, 1.0, groups.cp),
    )


def build(groups, shape=TINY, config=RANDOM):
    (model,) = build_model(shape, config, ParallelConfig(), groups, seed=1)
    return model


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_have_transformer_engines_names(groups, tied):
    shape = replace(TINY, tied=tied)
    entries = {n: e for n, e in model_entries(shape).items() if not e.is_copy}
    parameters = dict(build(groups, shape).named_parameters())
    assert {n: p.shape for n, p in parameters.items()} == {
        n: e.shard_shape(1) for n, e in entries.items()
    }


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recompute_changes_nothing(groups, tmp_path, recompute):
    folder = make_hf_folder(tmp_path / "model", "qwen3")
    batch, parallel = RaggedBatch.random(), ParallelConfig()
    plain = policy_pass(folder, parallel, groups, batch)
    again = policy_pass(folder, parallel, groups, batch, recompute)
    torch.testing.assert_close(again.logprobs, plain.logprobs, rtol=0, atol=1e-6)
    assert_close_relative(again.gradients, plain.gradients, 1e-6)


def test_a_micro_batch_without_samples_has_zero_gradients(groups):
    model = build(groups)
    logprobs, entropies, *_ = score(model, groups, pack([], [], pad_to_multiple=1, device=CPU))
    assert logprobs.shape == entropies.shape == (0,)
    logprobs.sum().backward()
    assert all((p.grad == 0).all() for p in model.parameters())


def test_bfloat16_parameters_give_float32_scores(groups):
    model = build(groups, config=RANDOM.model_copy(update={"dtype": "bfloat16"}))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    packed = pack([torch.arange(40)], [3], pad_to_multiple=1, device=CPU)
    logprobs, entropies, *_ = score(model, groups, packed)
    assert logprobs.dtype == entropies.dtype == torch.float32
    exact, *_ = score(build(groups), groups, packed)
    torch.testing.assert_close(logprobs, exact, atol=0.05, rtol=0)


def test_scoring_without_gradients_keeps_no_graph(groups):
    packed = pack([torch.arange(9)], [3], pad_to_multiple=1, device=CPU)
    with torch.no_grad():
        logprobs, *_ = score(build(groups), groups, packed)
    assert not logprobs.requires_grad


def test_vocabulary_padding():
    assert [padded_vocab_size(259, tp) for tp in (1, 2, 4, 8)] == [259, 260, 260, 264]
    assert padded_vocab_size(256, 8) == 256


def test_a_layout_that_does_not_fit_is_refused(groups):
    with pytest.raises(UserError, match=r"parallel\.tensor=3"):
        build_model(TINY, RANDOM, ParallelConfig(tensor=3), groups, seed=1)
