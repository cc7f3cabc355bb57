"""Pure functions of flat tensors: advantages, losses, aggregation, STARE."""
