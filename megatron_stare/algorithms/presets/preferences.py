"""Methods that learn from pairs of better and worse samples: of a file, or of rollouts."""

from __future__ import annotations

from megatron_stare.algorithms.links.dpo import Dpo
from megatron_stare.algorithms.links.ipo import Ipo
from megatron_stare.algorithms.links.simpo import Simpo
from megatron_stare.algorithms.presets.preset import Preset
from megatron_stare.algorithms.terms.tangent import Tangent

PREFERENCES: dict[str, Preset] = {
    "dpo": Preset(
        about="""Pairs ranked by the policy's log-ratios to the reference.

        Source: DPO, arXiv 2305.18290
        Status: checked against authors' code
        """,
        links={"dpo": Dpo()},
        policy={"tangent": Tangent()},
    ),
    "ipo": Preset(
        about="""Pairs whose log-ratios to the reference are pulled to a distance.

        Source: IPO, arXiv 2310.12036
        Status: paper
        """,
        links={"ipo": Ipo()},
        policy={"tangent": Tangent()},
    ),
    "simpo": Preset(
        about="""Pairs ranked by mean log-probs, with a margin and without a reference.

        Source: SimPO, arXiv 2405.14734
        Status: checked against authors' code
        """,
        links={"simpo": Simpo()},
        policy={"tangent": Tangent()},
    ),
}
"""By name."""
