"""Tensors and a process group, no Megatron: the head without logits, exact order statistics."""
