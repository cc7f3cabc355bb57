"""Where a model's code runs: one process with one thread, behind walls, gone afterwards.

    pool.py       runs code for the trainer, in a few templates at a time
    template.py   an interpreter that is warm, and forks a child for every run
    confine.py    what a child does before it runs anything: limits, Landlock, seccomp
    isolation.py  which walls there are, and which of them work here

Everything that a template imports is of the standard library and of this folder: inside
bubblewrap there is nothing else.
"""
