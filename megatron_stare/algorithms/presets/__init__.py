"""Every published method by its name, by subject; a new one is an entry in one of the files."""

from megatron_stare.algorithms.presets.baselines import BASELINES
from megatron_stare.algorithms.presets.entropy import ENTROPY
from megatron_stare.algorithms.presets.groups import GROUPS
from megatron_stare.algorithms.presets.preferences import PREFERENCES
from megatron_stare.algorithms.presets.preset import Preset
from megatron_stare.algorithms.presets.surrogates import SURROGATES
from megatron_stare.algorithms.presets.tokens import TOKENS
from megatron_stare.algorithms.presets.turns import OF_TURNS

METHODS: dict[str, Preset] = {
    **BASELINES,
    **TOKENS,
    **ENTROPY,
    **SURROGATES,
    **GROUPS,
    **PREFERENCES,
    **OF_TURNS,
}

__all__ = ["METHODS", "Preset"]
