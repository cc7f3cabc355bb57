"""Weights on their way to servers: buckets, checks, shared memory."""

import base64
import os
import pickletools
import subprocess
import sys

import pytest
import torch

from megatron_stare.engines.sglang.addresses import is_loopback
from megatron_stare.engines.sglang.sync.buckets import buffer_bytes, fill_buckets
from megatron_stare.engines.sglang.sync.shared_memory import SharedBuffer
from megatron_stare.engines.sglang.sync.tensor import _by_name, _pickled
from megatron_stare.errors import UserError
from megatron_stare.weights.checked import checked
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.names import hf_shapes
from tests.models import hf_tensors, make_hf_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_hf_folder(tmp_path_factory.mktemp("model") / "model", "qwen3", seed=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_buckets_hold_every_tensor_once_in_order(dtype):
    tensors = {f"t{i}": torch.randn(3 + 7 * (i % 4), 2) for i in range(20)}
    buffers = torch.empty(2, 48 * dtype.itemsize, dtype=torch.uint8)
    stored, sizes, last = {}, [], []
    for bucket in fill_buckets(tensors.items(), list(buffers), dtype, lambda name, tensor: None):
        sizes.append(bucket.num_bytes)
        last.append(bucket.is_last)
        values = bucket.flat.view(dtype).clone()
        for name, shape in zip(bucket.names, bucket.shapes, strict=True):
            size = torch.Size(shape).numel()
            stored[name], values = values[:size].view(shape), values[size:]
        assert values.numel() == 0
    assert list(stored) == list(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(stored[name], tensor.to(dtype))
    assert max(sizes) <= 48 * dtype.itemsize
    assert last == [False] * (len(last) - 1) + [True]


def test_buffers_hold_the_largest_tensor_and_are_aligned():
    assert buffer_bytes(1000, 200) == 1024
    assert buffer_bytes(1000, 2000) == 2048


@pytest.mark.parametrize(("num_rows", "first"), [(2, 4), (5, 5)])
def test_the_first_bucket_is_a_quarter_or_a_tensor(num_rows, first):
    tensors = [(f"t{i}", torch.zeros(num_rows)) for i in range(40)]
    buffers = list(torch.empty(2, 64, dtype=torch.uint8))
    buckets = fill_buckets(tensors, buffers, torch.float32, lambda *_: None)
    sizes = [bucket.num_bytes // 4 for bucket in buckets]
    assert sizes[0] == first
    assert set(sizes[1:-1]) == {16 // num_rows * num_rows}
    assert sum(sizes) == 40 * num_rows


def test_a_bucket_stays_while_the_next_one_is_filled():
    tensors = [(f"t{i}", torch.full((4,), float(i))) for i in range(6)]
    buckets = fill_buckets(
        tensors, list(torch.empty(2, 16, dtype=torch.uint8)), torch.float32, lambda *_: None
    )
    previous = next(buckets)
    for i, bucket in enumerate(buckets):
        assert previous.flat.view(torch.float32).tolist() == [float(i)] * 4
        previous = bucket


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.norm.wait": torch.ones(48)}, "'model.norm.wait' is not a parameter"),
        ({"model.norm.weight": torch.ones(47)}, r"'model.norm.weight' has shape \[47\]"),
        ({"model.norm.weight": None}, r"weights \['model.norm.weight'\] are missing"),
    ],
)
def test_what_is_not_the_network_is_refused(model, change, message):
    tensors = {k: v for k, v in (hf_tensors(model) | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        list(checked(tensors.items(), hf_shapes(read_hf_config(model))))


def test_a_tensor_that_comes_twice_is_refused(model):
    tensors = list(hf_tensors(model).items())
    with pytest.raises(ValueError, match="comes twice"):
        list(checked([*tensors, tensors[0]], hf_shapes(read_hf_config(model))))


def test_shared_memory_is_what_torch_opens_and_leaves_nothing_behind():
    buffer = SharedBuffer(1 << 16)
    buffer.tensor.fill_(7)
    code = (
        "import sys, torch\n"
        "storage = torch.UntypedStorage._new_shared_filename_cpu(b'', sys.argv[1].encode(), 65536)"
        "._shared_decref()\n"
        "print(int(torch.empty(0, dtype=torch.uint8).set_(storage).sum(dtype=torch.int64)))"
    )
    with buffer.named(2) as names:
        for name in names:
            done = subprocess.run([sys.executable, "-c", code, name], capture_output=True)
            assert done.stdout == b"%d\n" % (7 << 16)
    buffer.close()
    assert not [name for name in names if os.path.exists(f"/dev/shm{name}")]


def test_what_a_server_is_sent_names_shared_memory_and_no_gpu():
    """A server that does not see the GPU of a CUDA handle would end (decision 19)."""
    buffer = SharedBuffer(1 << 12)
    tensors = [("model.norm.weight", torch.ones(8))]
    (bucket,) = fill_buckets(tensors, [buffer.tensor] * 2, torch.float32, lambda *_: None)
    with buffer.named(1) as (name,):
        sent = _pickled(bucket, _by_name(name, buffer.tensor.numel()))
    buffer.close()
    words = {word for _, word, _ in pickletools.genops(base64.b64decode(sent)) if word}
    assert {"rebuild_storage_filename", name.encode()} <= words
    assert not [word for word in words if "cuda" in str(word)]


def test_shared_memory_of_a_killed_process_is_removed_by_the_next():
    code = (
        "import os\n"
        "from megatron_stare.engines.sglang.sync.shared_memory import SharedBuffer\n"
        "buffer = SharedBuffer(1 << 16)\n"
        "print(buffer.path, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    abandoned = done.stdout.strip()
    assert os.path.exists(abandoned)
    in_use = SharedBuffer(1 << 16)
    SharedBuffer(1 << 16).close()
    assert not os.path.exists(abandoned)
    assert in_use.path.exists()
    in_use.close()


def test_no_room_for_shared_memory_is_an_error_that_says_so():
    with pytest.raises(UserError, match="no room in /dev/shm for a bucket of"):
        SharedBuffer(1 << 50)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:30000", True),
        ("http://localhost:30000", True),
        ("http://[::1]:30000", True),
        ("http://10.0.0.1:30000", False),
        ("http://node-7:30000", False),
    ],
)
def test_only_loopback_is_this_machine_for_sure(url, expected):
    assert is_loopback(url) is expected
