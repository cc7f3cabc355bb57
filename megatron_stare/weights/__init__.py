"""Hugging Face folders to and from sharded Megatron parameters."""
