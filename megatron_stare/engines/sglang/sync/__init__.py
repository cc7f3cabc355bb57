"""Weights from the trainer to SGLang servers: one procedure, three transports."""
