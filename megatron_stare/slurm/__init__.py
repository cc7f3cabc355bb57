"""A run as a Slurm job: one script that a person can read, edit and submit without this program."""
