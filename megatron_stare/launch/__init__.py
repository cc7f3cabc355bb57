"""Where this process stands in the world; the only reader of the environment."""
