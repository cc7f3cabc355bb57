"""What is generated is there after a crash: all of it, nothing twice, nothing of another run."""

from __future__ import annotations

import resource
import struct
import zlib
from collections.abc import Generator
from dataclasses import replace

import pytest
import torch

from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.rollout import RolloutConfig
from megatron_stare.engines.embedded import EmbeddedEngine
from megatron_stare.rollout.bank import Bank
from megatron_stare.rollout.banked import BankedEngine, BankedScorer, missing
from megatron_stare.rollout.lineage import code_of_parts, lineage_of
from megatron_stare.rollout.sampler import Sampler
from megatron_stare.rollout.stop_tokens import stop_token_ids
from megatron_stare.system.records import RecordFile
from megatron_stare.types import Reward, Sample
from tests.models import make_hf_folder
from tests.unit.rollout.problems import TOKENIZER, make_prompt_set, make_sample
from tests.unit.rollout.test_partial_rollouts import SERVERS, TickingEngine

TEXTS = ["9", "2+2=", "a", "what?", "seven", "1 2 3"]


class Crash(Exception):
    """The process is gone."""


class MortalEngine(EmbeddedEngine):
    """Dies when it is asked for one sample more than `lives`."""

    lives: int
    generated: int = 0

    def generate(self, requests, sampling, *, seed) -> Generator[Sample, None, None]:
        for sample in super().generate(requests, sampling, seed=seed):
            if self.generated == self.lives:
                raise Crash
            self.generated += 1
            yield sample


class CountingScorer:
    """Every answer to "a" is right, and every other one to the rest; `judged` counts them."""

    def __init__(self) -> None:
        self.judged = 0

    def score(self, samples) -> list[Reward]:
        self.judged += len(samples)
        values = [float(s.prompt.text == "a" or s.index == 1) for s in samples]
        return [Reward(value, value, None, 0.0) for value in values]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_hf_folder(tmp_path_factory.mktemp("model") / "hf")


class Process:
    """A run's process, with the bank that the one before it left."""

    def __init__(self, folder, model, *, lives: int = 1000, lineage: str = "ours") -> None:
        self.said: list[str] = []
        self.bank = Bank(folder / "bank", lineage, self.said.append)
        self.engine = MortalEngine(
            model,
            TOKENIZER,
            device=torch.device("cpu"),
            dtype=torch.float32,
            max_batch_sequences=4,
            stop_ids=stop_token_ids(model, TOKENIZER),
        )
        self.engine.load_weights(model, version=0)
        self.engine.lives = lives
        banked = BankedEngine(
            self.engine,
            self.bank,
            max_staleness=0,
            remaining=self.engine.remaining,
            report=self.said.append,
        )
        self.scorer = CountingScorer()
        config = RolloutConfig(prompts_per_step=4, samples_per_prompt=3, max_response_tokens=8)
        self.sampler = Sampler(
            make_prompt_set(folder, TEXTS),
            banked,
            BankedScorer(self.scorer, self.bank),
            config,
            seed=1,
        )

    def collect(self, step: int = 1):
        self.bank.begin(step, self.sampler.state_dict()["prompts"])
        rollout = self.sampler.collect(step)
        self.bank.close()
        return rollout


def without_seconds(rollout):
    groups = [
        (group.prompt, [replace(sample, seconds=0.0) for sample in group.samples], group.rewards)
        for group in (*rollout.groups, *rollout.filtered)
    ]
    return groups, rollout.metrics


@pytest.mark.parametrize("lives", [0, 3, 4, 11, 12, 13, 17])
def test_a_step_goes_on_after_a_crash_and_ends_the_same_to_the_bit(tmp_path, model, lives):
    (tmp_path / "whole").mkdir()
    undisturbed = Process(tmp_path / "whole", model)
    expected = without_seconds(undisturbed.collect())
    assert undisturbed.engine.generated == 12 + 6, "in two rounds"
    with pytest.raises(Crash):
        Process(tmp_path, model, lives=lives).collect()
    second = Process(tmp_path, model)
    assert without_seconds(second.collect()) == expected
    # Sequences that decode together depend on each other by rounding: batches are of four.
    assert second.engine.generated == 18 - lives // 4 * 4
    assert second.scorer.judged == 18 - 12 * (lives >= 12)
    third = Process(tmp_path, model, lives=0)
    assert without_seconds(third.collect()) == expected
    assert third.scorer.judged == 0
    assert third.said[0] == (
        "step 1: 12 of 12 samples had been generated before, and are taken from the rollout bank"
    )


def test_another_lineage_or_another_course_of_steps_is_not_taken_for_ours(tmp_path, model):
    Process(tmp_path, model).collect()
    for process in (Process(tmp_path, model, lineage="theirs"), Process(tmp_path, model)):
        process.collect()
        assert process.engine.generated >= 12
    process.sampler.collect(2)  # Another position in the data.
    before = process.engine.generated
    process.collect(1)
    assert process.engine.generated >= before + 12


def test_steps_that_a_checkpoint_is_past_are_forgotten(tmp_path, model):
    process = Process(tmp_path, model)
    process.collect(1)
    process.engine.weight_version = 1
    process.collect(2)
    process.bank.forget_steps(through=1)
    assert [path.name for path in (tmp_path / "bank").iterdir()] == ["step_000002.bank"]
    process.bank.forget_steps()
    assert list((tmp_path / "bank").iterdir()) == []


@pytest.mark.parametrize(
    ("banked", "engine", "limit", "is_taken"),
    [(4, 4, 0, True), (3, 4, 0, False), (3, 4, 1, True), (2, 4, 1, False), (5, 4, 1, False)],
)
def test_weights_decide_what_is_taken(tmp_path, scorer, banked, engine, limit, is_taken):
    """At step 5: versions of the samples, of the engine, and the staleness that is allowed."""
    prompts = make_prompt_set(tmp_path, ["1 2"])
    bank = Bank(tmp_path / "bank", "ours", lambda _: None)
    bank.begin(5, {})
    (prompt,) = make_prompt_set(tmp_path, ["1 2"]).draw(1)
    bank.add_sample(make_sample(prompt, 1, "no", weight_versions=(banked,) * 3))
    bank.begin(5, {})
    ticking = TickingEngine()
    ticking.weight_version = engine
    wrapped = BankedEngine(
        ticking, bank, max_staleness=limit, remaining=missing, report=lambda _: None
    )
    config = RolloutConfig(**SERVERS, prompts_per_step=1, samples_per_prompt=2)
    (group,) = Sampler(prompts, wrapped, scorer, config, seed=1).collect(5).groups
    assert group.samples[1].weight_versions[0] == (banked if is_taken else engine)
    assert ticking.asked == [[("1 2", 0, 0)] if is_taken else [("1 2", 0, 0), ("1 2", 1, 0)]]
    bank.close()


def test_whatever_is_left_of_the_file_whole_records_are_read(tmp_path):
    path = tmp_path / "records"
    file = RecordFile(path, b"header")
    for record in (b"one", b"two" * 100, b"three"):
        file.append(record)
    file.close()
    content = path.read_bytes()
    ends = [14, 14 + 11, 25 + 308, 333 + 13]
    assert len(content) == ends[-1]
    whole = [b"one", b"two" * 100, b"three"]
    for size in sorted({size for end in ends for size in (0, end - 1, end, end + 1, end + 9)}):
        path.write_bytes(content[:size])
        file = RecordFile(path, b"header")
        assert file.found == whole[: sum(size >= end for end in ends[1:])]
        file.append(b"four")
        file.close()
        again = RecordFile(path, b"header")
        assert again.found == [*file.found, b"four"]
        again.close()
    for damaged in (content[:100] + b"?" + content[101:], content[:25] + bytes(100)):
        path.write_bytes(damaged)
        file = RecordFile(path, b"header")
        assert file.found == [b"one"]
        file.close()


def test_a_bank_is_read_up_to_the_first_record_that_is_none(tmp_path, model):
    expected = without_seconds(Process(tmp_path, model).collect())
    path = tmp_path / "bank" / "step_000001.bank"
    content = path.read_bytes()
    header_bytes = 8 + int.from_bytes(content[:4], "little")
    strange = [
        content,  # Appended to itself: a header stands where a sample is expected.
        *(_frame(text) for text in (b"[]", b"7", b'"uid"', b"{}\n", b'{"uid": "a"}\n', b"\xff\n")),
        _frame(b'{"rewards": [["a", 0, {"value": 1.0}]]}\n'),
        _frame(b'{"rewards": 3}\n'),
        _frame(content[header_bytes + 8 :][:-1]),
    ]
    for record in strange:
        path.write_bytes(content + record)
        process = Process(tmp_path, model, lives=0)
        assert without_seconds(process.collect()) == expected
        assert path.read_bytes() == content, "what is no record is cut off"
        path.write_bytes(content[:header_bytes] + record + content[header_bytes:])
        assert without_seconds(Process(tmp_path, model).collect()) == expected


def _frame(content: bytes) -> bytes:
    """A whole record, as the file has it."""
    return struct.pack("<II", len(content), zlib.crc32(content)) + content


def test_what_is_no_bank_is_left_alone(tmp_path):
    bank = Bank(tmp_path, "ours", lambda _: None)
    for name in ("step_x.bank", "step_.bank", "step_2.bank", "step_000001.bank.old", "notes"):
        (tmp_path / name).write_text("somebody's")
    (tmp_path / "step_000003.bank").mkdir()
    before = sorted(tmp_path.iterdir())
    bank.forget_steps()
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk_costs_the_bank_of_a_step_and_not_the_step(tmp_path, model):
    process = Process(tmp_path, model)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, unlimited[1]))
    try:
        process.collect()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    (message,) = process.said
    assert message.startswith("no rollout bank from step 1 on: [Errno 27] File too large")
    # What came before the disk was full is whole.
    second = Process(tmp_path, model)
    second.collect()
    assert second.engine.generated < process.engine.generated


def test_a_lineage_is_its_settings_its_model_and_its_verifier(model):
    def lineage(code: str = "as it is", **sections) -> str:
        tree = {"model": {"path": model}, "data": {"path": "prompts.jsonl"}, **sections}
        return lineage_of(TrainConfig.model_validate(tree), code)

    mine = {"reward": {"kind": "verdicts:judge"}}
    before = lineage(), lineage(**mine)
    assert len({*before, lineage(optim={"lr": 1e-4}), lineage(run={"seed": 2})}) == 4
    assert lineage(checkpoint={"every": 7}, rollout={"max_rounds": 99}) == before[0]
    assert lineage(**mine, code="mended") != before[1]


def test_a_users_part_of_the_method_is_known_by_its_code(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "own_part_of_a_lineage.py"
    file.write_text(
        "from megatron_stare.algorithms.hooks import Link\n\n\nclass Mine(Link[None]):\n    pass\n"
    )
    tree = {
        "model": {"path": model},
        "data": {"path": "prompts.jsonl"},
        "algorithm": {"method": "grpo", "links": ["grpo", "own_part_of_a_lineage:Mine"]},
    }
    config = TrainConfig.model_validate(tree)
    (name,) = code_of_parts(config.algorithm)
    assert name == "code of own_part_of_a_lineage:Mine"
    before = lineage_of(config, "verifier")
    assert lineage_of(config, "verifier") == before
    file.write_text(file.read_text() + "# Another version.\n")
    assert lineage_of(config, "verifier") != before
