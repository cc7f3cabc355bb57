"""Which problems a step asks, one file a way of choosing them."""
