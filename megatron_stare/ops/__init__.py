"""Tensors and a process group, no Megatron: the log-prob/entropy head and exact order statistics."""
