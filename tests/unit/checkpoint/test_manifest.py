"""A manifest's every byte is covered: by its own checksum."""

from __future__ import annotations

import json
import random

import pytest

from megatron_stare.checkpoint.manifest import read_manifest, write_manifest

CONTENT = {
    "step": 20,
    "saved_at_unix_s": 1.7e9,
    "world_size": 2,
    "versions": {"torch": "2.14.1"},
    "model": {"num_layers": 4},
    "config": {"run": {"seed": 1, "dir": "runs/é"}},
    "files": {"a.distcp": {"size": 7, "crc32": 1234}, "b.distcp": {"size": 9, "crc32": 99}},
}
DATA = write_manifest(CONTENT)
OLD = json.dumps(CONTENT, indent=1).encode()


def test_it_is_json_and_says_what_was_written():
    assert read_manifest(DATA) == CONTENT
    assert json.loads(DATA).items() > CONTENT.items()


def test_every_flipped_bit_is_seen():
    for position in range(8 * len(DATA)):
        damaged = bytearray(DATA)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(ValueError):  # noqa: PT011  (JSON has its own)
            read_manifest(bytes(damaged))


def test_every_cut_and_whatever_is_written_over_it_is_seen():
    rng = random.Random(0)
    for _ in range(2000):
        start = rng.randrange(len(DATA))
        stop = rng.randint(start + 1, len(DATA))
        for filling in (b"", bytes(stop - start), rng.randbytes(stop - start), DATA[:start]):
            damaged = DATA[:start] + filling + DATA[stop:]
            if damaged != DATA:
                with pytest.raises(ValueError):  # noqa: PT011
                    read_manifest(damaged)


def test_one_of_an_earlier_version_has_no_checksum_and_is_taken_as_it_is():
    assert read_manifest(OLD) == CONTENT


@pytest.mark.parametrize("key", ["step", "world_size", "versions", "model", "config", "files"])
@pytest.mark.parametrize("value", [None, "text", True], ids=repr)
def test_what_a_run_goes_on_from_is_there(key, value):
    content = CONTENT | {key: value}
    for damaged in (json.dumps(content).encode(), write_manifest(content)):
        with pytest.raises(ValueError, match=key):
            read_manifest(damaged)


@pytest.mark.parametrize("data", [b"", b"[]", b"1", b"null", b"{", b'"files"', b"\xff"])
def test_what_is_no_manifest_is_refused(data):
    with pytest.raises(ValueError):  # noqa: PT011
        read_manifest(data)
