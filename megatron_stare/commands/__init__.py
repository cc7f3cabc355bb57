"""The commands, one file each; `cli.py` is their door."""
