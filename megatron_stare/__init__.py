"""megatron_stare: reinforcement learning with verifiable rewards that keeps entropy in a band."""

__version__ = "0.1.0"
