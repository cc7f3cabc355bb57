"""The script of completion, in a real bash."""

import subprocess

import pytest

from megatron_stare.commands.completion import script


def completed(*words: str) -> list[str]:
    """What bash offers for the last word."""
    program = f"""{script()}
COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}
_megatron_stare; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    return subprocess.check_output(["bash", "-c", program], text=True).split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("megatron-stare com", ["compare", "completion"]),
        ("megatron-stare train run.yaml optim.l", ["optim.lr="]),
        ("megatron-stare plan run.yaml --server", ["--server-gpus"]),
        ("megatron-stare report optim.l", []),
    ],
)
def test_words_are_completed(line, offered):
    assert completed(*line.split()) == offered
