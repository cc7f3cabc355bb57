"""Checksums of what each rank of a server keeps of the weights that are sent."""

import hashlib
import math

import pytest
import torch
import torch.nn.functional as F

from megatron_stare.engines.sglang.sync.checksums import Checksums, checksum_key
from megatron_stare.engines.sglang.sync.server_layout import ServerLayout
from megatron_stare.engines.sglang.sync.tensor_hashes import hash_on_gpu
from tests.models import hf_tensors, make_hf_folder

ONE_RANK = ServerLayout("cpu", num_ranks=1, num_kv_heads=2)
LAYER = "model.layers.0"


@pytest.fixture(scope="module")
def tensors(tmp_path_factory):
    return hf_tensors(make_hf_folder(tmp_path_factory.mktemp("model") / "model", "qwen3", seed=1))


def shapes_of(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def hashes_of(tensors, layout=ONE_RANK, version=None):
    checksums = Checksums(shapes_of(tensors), layout, version)
    for name, tensor in tensors.items():
        checksums.add(name, tensor)
    return checksums.hashes


def test_a_server_has_fused_and_padded_tensors():
    torch.manual_seed(0)
    q, k, v = torch.randn(4, 8), torch.randn(2, 8), torch.randn(2, 8)
    embedding, down = torch.randn(70, 8), torch.randn(8, 40)
    hashes = hashes_of(
        {
            f"{LAYER}.self_attn.v_proj.weight": v,
            f"{LAYER}.mlp.down_proj.weight": down,
            f"{LAYER}.self_attn.k_proj.weight": k,
            "model.embed_tokens.weight": embedding,
            f"{LAYER}.self_attn.q_proj.weight": q,
        }
    )
    assert hashes == {
        checksum_key(f"{LAYER}.self_attn.qkv_proj.weight", 0): sha(torch.cat([q, k, v])),
        checksum_key("model.embed_tokens.weight", 0): sha(
            torch.cat([embedding, torch.zeros(58, 8)])
        ),
        checksum_key(f"{LAYER}.mlp.down_proj.weight", 0): sha(
            torch.cat([down, torch.zeros(8, 24)], dim=1)
        ),
    }


def test_a_rank_has_its_heads_its_channels_and_its_tokens():
    """Four ranks, two KV heads of four rows: two ranks have the same one."""
    q, k = torch.arange(32.0).view(8, 4), torch.arange(32.0).view(8, 4)
    o, embedding = torch.arange(32.0).view(4, 8), torch.arange(140.0).view(70, 2)
    layout = ServerLayout("cuda", num_ranks=4, num_kv_heads=2)

    def shards(name, tensor):
        return [layout.shard(name, tensor, rank) for rank in range(4)]

    assert_equal(shards(f"{LAYER}.self_attn.q_proj.weight", q), q.split(2))
    assert_equal(shards(f"{LAYER}.self_attn.k_proj.weight", k), (k[:4], k[:4], k[4:], k[4:]))
    assert_equal(shards(f"{LAYER}.self_attn.o_proj.weight", o), o.split(2, dim=1))
    assert_equal(shards(f"{LAYER}.mlp.up_proj.weight", q), q.split(2))
    assert_equal(shards(f"{LAYER}.mlp.down_proj.weight", o), o.split(2, dim=1))
    padded = torch.cat([embedding, torch.zeros(58, 2)])
    assert_equal(shards("model.embed_tokens.weight", embedding), padded.split(32))
    assert_equal(shards("model.norm.weight", q), (q, q, q, q))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_experts_of_a_layer_are_one_tensor_whose_layout_is_known_on_a_cpu(device):
    experts = {
        f"{LAYER}.mlp.experts.{number}.{kind}_proj.weight": torch.randn(2, 2)
        for number in range(11)
        for kind in ("down", "gate", "up")
    }
    layout = ServerLayout(device, num_ranks=1, num_kv_heads=2)
    whole = [f"{LAYER}.mlp.experts.w13_weight", f"{LAYER}.mlp.experts.w2_weight"]
    hashes = hashes_of(dict(sorted(experts.items())), layout)
    if device == "cuda":
        assert hashes == {}
        assert Checksums(shapes_of(experts), layout, None).skipped == whole
        return

    rows = [F.pad(v, (0, 0, 0, 30)) for k, v in experts.items() if "down" not in k]
    columns = [F.pad(v, (0, 30)) for k, v in experts.items() if "down" in k]
    assert hashes == {
        checksum_key(whole[0], 0): sha(torch.cat(rows)),
        checksum_key(whole[1], 0): sha(torch.cat(columns)),
    }


def test_every_tensor_is_hashed_at_first_and_in_turn_later(tensors):
    first = hashes_of(tensors)
    assert len(first) == 3 + 4 * 8  # embedding, norm, head; fused: 4 + 4 in each layer
    later = [hashes_of(tensors, version=version) for version in range(len(first))]
    assert set().union(*later) == set(first)
    for version, hashes in enumerate(later):
        assert len(hashes) == 1
        assert hashes.items() <= first.items()
        skipped = Checksums(shapes_of(tensors), ONE_RANK, version).skipped
        assert {*hashes, *(checksum_key(name, 0) for name in skipped)} == first.keys()


def test_turns_cost_about_the_same():
    """Of a 7B: each has a 64th of it, or the embedding or the head alone, which are larger."""
    layer = {"mlp.down_proj": (3584, 18944), "self_attn.o_proj": (3584, 3584), "norm": (3584,)}
    shapes = {f"model.layers.{n}.{k}.weight": v for n in range(28) for k, v in layer.items()}
    large = {"model.embed_tokens.weight": (152064, 3584), "lm_head.weight": (152064, 3584)}
    sizes = {name: math.prod(shape) for name, shape in (shapes | large).items()}
    turns = [
        sizes.keys() - Checksums(shapes | large, ONE_RANK, version).skipped for version in range(64)
    ]
    assert sorted(name for turn in turns for name in turn) == sorted(sizes)
    totals = [sum(sizes[name] for name in turn) for turn in turns if not turn & large.keys()]
    largest = max(math.prod(shape) for shape in shapes.values())
    assert max(totals) <= largest
    assert all({name} in turns for name in large)


def test_of_a_few_tensors_one_is_hashed_every_time():
    tensors = {f"model.{name}.weight": torch.ones(2) for name in ("norm", "other", "third")}
    found = [set(hashes_of(tensors, version=version)) for version in range(6)]
    assert [len(names) for names in found] == [1] * 6
    assert found[:3] == found[3:]
    assert len(set().union(*found)) == 3


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_order_of_arrival_does_not_matter(tensors, device):
    layout = ServerLayout(device, num_ranks=2, num_kv_heads=2)
    found = []
    for order in (list(tensors), list(tensors)[::-1]):
        checksums = Checksums(shapes_of(tensors), layout, None)
        for name in order:
            buffer = tensors[name].clone()
            checksums.add(name, buffer)
            buffer.zero_()  # as a bucket that is filled again
        found.append(checksums.hashes)
    assert found[0] == found[1]
    assert len(found[0]) == 2 * (3 + 4 * 8)


def test_a_server_that_differs_is_told_by_names(tensors):
    checksums = Checksums(shapes_of(tensors), ONE_RANK, None)
    for name, tensor in tensors.items():
        checksums.add(name, tensor)
    assert checksums.differing(checksums.hashes) == []
    key = checksum_key("model.norm.weight", 0)
    assert checksums.differing(checksums.hashes | {key: "0"}) == [key]
    assert checksums.differing({}) == list(checksums.hashes)


def test_parts_are_hashed_like_the_whole():
    parts = torch.randn(8001), torch.randn(8191)
    assert hash_on_gpu(parts) == hash_on_gpu([torch.cat(parts)])


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_the_hash_of_gpus_is_of_values_wherever_they_begin(start, size):
    memory = torch.randn(16).bfloat16()
    part = memory[start : start + size]
    assert hash_on_gpu([part]) == hash_on_gpu([part.clone()])


def test_a_hash_is_the_same_however_many_tiles_are_mixed_at_once(monkeypatch):
    tensor = torch.randn(5 * 8192 + 3)
    expected = hash_on_gpu([tensor])
    monkeypatch.setattr("megatron_stare.engines.sglang.sync.tensor_hashes._NUM_TILES", 2)
    assert hash_on_gpu([tensor]) == expected


def sha(tensor):
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()[:16]


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
