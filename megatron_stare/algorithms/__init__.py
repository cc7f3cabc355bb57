"""Pure functions of flat tensors: advantages, losses, corrections, aggregation, STARE."""
