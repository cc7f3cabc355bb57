"""What shapes a run: `commands.py` has the whole of each command's, in reading order."""
