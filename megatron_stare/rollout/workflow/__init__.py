"""Episodes: how a model and its tools take turns on any engine."""
