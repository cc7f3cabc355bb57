"""A step with the embedded engine, dumped and trained on again from the dump."""

import torch

from megatron_stare.config.rollout import RolloutConfig
from megatron_stare.engines.embedded import EmbeddedEngine
from megatron_stare.engines.replay import ReplayEngine
from megatron_stare.rollout.dump import dump_samples
from megatron_stare.rollout.sampler import Sampler
from megatron_stare.rollout.stop_tokens import stop_token_ids
from megatron_stare.types import RolloutBatch
from tests.models import VOCAB_SIZE, make_hf_folder
from tests.unit.rollout.problems import TOKENIZER, make_prompt_set


def test_a_replayed_step_trains_on_the_same_batch(tmp_path, scorer):
    folder = make_hf_folder(tmp_path / "model")
    embedded = EmbeddedEngine(
        folder,
        TOKENIZER,
        device=torch.device("cpu"),
        dtype=torch.float32,
        max_batch_sequences=5,
        stop_ids=stop_token_ids(folder, TOKENIZER),
    )
    embedded.load_weights(folder, version=0)
    settings = {
        "prompts_per_step": 3,
        "samples_per_prompt": 2,
        "max_response_tokens": 12,
        "dynamic_sampling": False,
    }

    def collect(engine, config):
        prompts = make_prompt_set(tmp_path, ["1+1=", "Why?", "12 - 3 ="])
        return Sampler(prompts, engine, scorer, config, seed=1).collect(step=1)

    first = collect(embedded, RolloutConfig(**settings))
    dump = tmp_path / "samples" / "step_000001.jsonl"
    dump_samples(dump, first.groups, [0.0] * 6, first.filtered)
    replay = ReplayEngine(dump, TOKENIZER, vocab_size=VOCAB_SIZE)
    replay.update_weights([], version=0)
    again = collect(replay, RolloutConfig(engine="replay", replay_path=dump, **settings))

    batch, replayed = (RolloutBatch.from_groups(rollout.groups) for rollout in (first, again))
    for name in RolloutBatch.__dataclass_fields__:
        torch.testing.assert_close(getattr(replayed, name), getattr(batch, name), rtol=0, atol=0)
    assert again.metrics == first.metrics
