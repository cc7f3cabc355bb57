"""Transformer Engine's layers hold what torch's hold: names, shapes, places in checkpoints.

So a checkpoint, a weight table and a plan need not know which of the two is running. Here torch's
are built; Transformer Engine's constructors, the real ones, in a process that has them.
"""

from __future__ import annotations

import pytest

from tests.gpu_rehearsal.networks import NETWORKS, described

LAYOUTS_OF = {
    "qwen2.5-32b": ("one rank", "tp4 sp", "cp2 tp2 sp"),
    "qwen2.5-math-7b": ("tp2 pp2",),
    "qwen2.5-1.5b": ("one rank", "pp2 vpp2"),
    "qwen3-32b": ("tp4 sp",),
    "qwen3-30b-a3b": ("one rank", "ep2 tp2 sp"),
    "llama-3.1-8b": ("pp2 vpp2",),
    "llama with all biases": ("one rank", "tp2 pp2"),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_either_spec_holds_the_same(network, fake_gpu_te):
    layouts = LAYOUTS_OF[network]
    (with_te,) = fake_gpu_te.run("tests.gpu_rehearsal.programs:describe", network, layouts)
    for layout, ranks in with_te.items():
        for rank, expected in described(network, layout).items():
            held = ranks[rank]
            assert (held.pop("is_te"), expected.pop("is_te")) == (True, False)
            for part, values in expected.items():
                assert held[part] == values, (layout, rank, part)
