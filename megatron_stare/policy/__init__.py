"""The Megatron-Core policy; the only package that imports megatron."""

# First, so that Megatron-Core is imported the way `platform` has it.
from megatron_stare.policy import platform  # noqa: F401
