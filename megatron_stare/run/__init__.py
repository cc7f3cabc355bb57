"""What the loops of training are made of: a world, a step, its facts, what is saved of it."""
