"""Nested mappings under dotted keys."""

from __future__ import annotations

from megatron_stare.system.nested import dotted


def test_every_value_has_the_keys_that_lead_to_it():
    tree = {"run": {"dir": "runs/1", "log": {"quiet": True}}, "links": [{"kl": 1}], "empty": {}}

    assert list(dotted(tree)) == [
        ("run.dir", "runs/1"),
        ("run.log.quiet", True),
        ("links", [{"kl": 1}]),
    ]
