"""The Megatron-Core policy; the only package that imports megatron."""
