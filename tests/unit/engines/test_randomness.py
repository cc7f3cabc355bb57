"""Noise by name: what a sample's randomness depends on, and what not."""

import numpy as np

from megatron_stare.engines.randomness import derive_seed, token_uniforms


def test_seeds_differ_with_every_part_and_its_place():
    seeds = [derive_seed(1, 2), derive_seed(2, 1), derive_seed(12), derive_seed(1, 2, 0)]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_same_names_give_the_same_seed_in_every_process():
    # Not Python's hash, which is salted per process.
    assert derive_seed(1, 7, "eval") == 4879763634118925788


def test_noise_is_a_function_of_seed_uid_and_index():
    same = token_uniforms(5, "a", 0, 8)
    np.testing.assert_array_equal(same, token_uniforms(5, "a", 0, 8))
    for other in [(6, "a", 0), (5, "b", 0), (5, "a", 1)]:
        assert not np.isin(same, token_uniforms(*other, 8)).any()


def test_a_longer_response_begins_with_the_noise_of_a_shorter_one():
    np.testing.assert_array_equal(token_uniforms(5, "a", 0, 100)[:8], token_uniforms(5, "a", 0, 8))


def test_noise_is_uniform():
    noise = np.concatenate([token_uniforms(0, str(uid), 0, 100) for uid in range(200)])
    counts, _ = np.histogram(noise, bins=10, range=(0, 1))
    np.testing.assert_allclose(counts / len(noise), 0.1, atol=0.01)
