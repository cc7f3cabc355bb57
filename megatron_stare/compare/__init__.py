"""A comparison: runs of several methods over seeds, and what their differences are worth."""
