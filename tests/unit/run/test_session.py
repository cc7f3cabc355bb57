"""One process's policy: its updates are AdamW on the mean over the batch, or none at all."""

import contextlib
import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_stare.config.sft import SftConfig
from megatron_stare.errors import UserError
from megatron_stare.run.session import Session, open_session, open_world
from megatron_stare.sft import sft_step
from megatron_stare.types import TokenBatch
from tests.models import hf_tensors, make_hf_folder

LR = 1e-3


@pytest.fixture
def open_sft(tmp_path):
    """Opens sessions on one tiny model; further keys by section."""
    folder = make_hf_folder(tmp_path / "model", "qwen2", tied=True)

    @contextlib.contextmanager
    def open_it(**sections):
        config = SftConfig.model_validate(
            {
                "run": {"dir": tmp_path / "run"},
                "model": {"path": folder},
                "data": {"path": "unused", "max_tokens": 64},
                "log": {"progress": False},
                **sections,
            }
        )
        with open_world(config) as world:
            yield open_session(
                config, world, num_updates=4, temperature=1.0, max_tokens_per_micro_batch=64
            )

    return open_it


@pytest.fixture
def batch():
    """Five samples of 8 to 40 tokens with prompts of 3."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([8, 40, 17, 33, 25])
    return TokenBatch(
        token_ids=torch.randint(0, 256, (int(lengths.sum()),), generator=generator),
        prompt_lengths=torch.full((5,), 3),
        response_lengths=lengths - 3,
        loss_mask=torch.rand(int((lengths - 3).sum()), generator=generator) < 0.8,
    )


def test_updates_are_adamw_on_the_token_mean(open_sft, batch, tmp_path):
    optim = {"lr": LR, "weight_decay": 0.1, "eps": 1e-6, "clip_grad": 0.5}
    with open_sft(optim=optim) as session:
        losses = [sft_step(session, batch, 1)["sft/loss"] for _ in range(3)]
        session.save(1, "final")
    found = hf_tensors(tmp_path / "run/hf/final")

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", attn_implementation="eager")
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    adamw = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=LR,
        eps=1e-6,
    )
    for loss in losses:
        expected = _mean_loss(model, batch)
        assert math.isclose(loss, expected.item(), rel_tol=1e-5)
        adamw.zero_grad()
        expected.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        adamw.step()
    for name, value in model.state_dict().items():
        if name in found:
            assert (found[name] - value).abs().max() < 2e-5, name


def _mean_loss(model, batch: TokenBatch) -> torch.Tensor:
    total, count, mask_start = torch.zeros(()), 0, 0
    for tokens in batch.token_ids.split(batch.lengths.tolist()):
        logprobs = model(tokens[None]).logits[0].log_softmax(-1)[2:-1]
        mask = batch.loss_mask[mask_start : mask_start + len(tokens) - 3]
        mask_start += len(mask)
        total = total - (logprobs.gather(1, tokens[3:, None])[:, 0] * mask).sum()
        count += int(mask.sum())
    return total / count


def test_a_non_finite_update_changes_nothing_and_too_many_stop_the_run(open_sft, batch):
    with open_sft() as session:
        _poison(session)
        before = {name: p.clone() for name, p in session.policy.named_parameters()}
        metrics = sft_step(session, batch, max_bad_updates=2)
        assert metrics["optim/skipped"] == 1.0
        assert not math.isfinite(metrics["sft/loss"])
        for name, parameter in session.policy.named_parameters():
            torch.testing.assert_close(parameter, before[name], equal_nan=True, rtol=0, atol=0)
        with pytest.raises(
            UserError, match=r"2 updates in a row were not finite .*max_bad_updates=2"
        ):
            sft_step(session, batch, max_bad_updates=2)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1e16])
def test_an_update_that_spoils_a_weight_ends_the_run(open_sft, batch, value):
    with open_sft() as session:
        session.policy.before_change = lambda: _spoil(session, value)
        with pytest.raises(UserError, match=r"made decoder\.final_layernorm\.weight infinite or"):
            sft_step(session, batch, max_bad_updates=9)


def test_a_policy_without_finite_scores_is_not_saved(open_sft, tmp_path):
    """Its weights are finite: only a forward tells."""
    with open_sft() as session:
        session.save(1, "good")
        _spoil(session, 3e38)
        with pytest.raises(UserError, match="policy after step 2 are not finite"):
            session.save(2, "bad")
    assert [path.name for path in (tmp_path / "run/hf").iterdir()] == ["good"]


def test_a_finite_update_resets_the_count_of_bad_ones(open_sft, batch):
    with open_sft() as session:
        weight = _poison(session)
        sft_step(session, batch, max_bad_updates=2)
        with torch.no_grad():
            weight.fill_(1.0)
        assert sft_step(session, batch, max_bad_updates=2)["optim/skipped"] == 0.0
        with torch.no_grad():
            weight.fill_(math.nan)
        assert sft_step(session, batch, max_bad_updates=2)["optim/skipped"] == 1.0


def _poison(session: Session) -> torch.Tensor:
    return _spoil(session, math.nan)


def _spoil(session: Session, value: float) -> torch.Tensor:
    weight = dict(session.policy.named_parameters())["decoder.final_layernorm.weight"]
    with torch.no_grad():
        weight.fill_(value)
    return weight


def test_the_learning_rate_warms_up_from_the_first_update_and_decays_to_its_end(open_sft, batch):
    optim = {"lr": 1e-3, "min_lr": 1e-4, "warmup_steps": 2, "decay": "linear"}
    with open_sft(optim=optim) as session:
        rates = [sft_step(session, batch, 1)["optim/lr"] for _ in range(4)]
    assert rates == pytest.approx([5e-4, 1e-3, 5.5e-4, 1e-4])


def test_a_swap_of_weights_is_undone(open_sft, batch):
    with open_sft() as session:
        policy = session.policy
        share = session.plan(batch, [list(range(len(batch)))])
        start = {name: p.detach().clone() for name, p in policy.named_parameters()}
        at_start = policy.score(batch, share.micro_batches).logprobs
        sft_step(session, batch, 1)
        moved = policy.score(batch, share.micro_batches).logprobs
        ends = {name: p.detach().clone() for name, p in policy.named_parameters()}
        with policy.weights_swapped_for(start):
            assert torch.equal(policy.score(batch, share.micro_batches).logprobs, at_start)
            # They have changed places: there is no third copy.
            assert all(torch.equal(start[name], tensor) for name, tensor in ends.items())
        assert torch.equal(policy.score(batch, share.micro_batches).logprobs, moved)
        assert not torch.equal(moved, at_start)
