"""Looking at what a run decided, token by token: in a terminal, or as one HTML page."""
