"""What a run needs, worked out without a GPU: memory, communication, operations, time."""
