"""Rollouts from SGLang servers: their start, their client, and weights on their way to them."""
