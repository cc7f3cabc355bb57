"""What a model's code tries behind each kind of walls; and that the same gets through without."""

from __future__ import annotations

import os
import platform
import socket

import pytest

from megatron_stare.tools.sandbox.confine import Limits
from megatron_stare.tools.sandbox.pool import Sandbox
from tests.unit.tools.attacks import BEYOND_LIMITS, BEYOND_WALLS, PERHAPS_BEYOND_WALLS, X86_ONLY

LIMITS = Limits(cpu_s=3, memory_bytes=256 << 20, file_bytes=4 << 20, output_bytes=16 << 10)
ALL = {**BEYOND_WALLS, **PERHAPS_BEYOND_WALLS, **BEYOND_LIMITS}
if platform.machine() == "x86_64":
    ALL |= X86_ONLY
THE_ANSWER = "the answer is 42"
GOT_OUT = "the walls are down"


@pytest.fixture(scope="module")
def sandbox(walls):
    with Sandbox(walls, (), LIMITS, workers=1, wait_s=10) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def open_sandbox():
    with Sandbox("none", (), LIMITS, workers=1, wait_s=10) as sandbox:
        yield sandbox


class Attacked:
    """A run's folder, a listening trainer, and what an attack is told of them."""

    def __init__(self, folder):
        self.secret = folder / "answers.jsonl"
        self.secret.write_text(THE_ANSWER)
        (folder / "victim").write_text(THE_ANSWER)
        os.utime(self.secret, (1e9, 1e9))
        self.folder = folder
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind(f"\0attacked-{os.getpid()}")
        self.unix.listen()
        self.before = self.state()

    def state(self):
        found = {path.name: (path.read_text(), path.stat()) for path in self.folder.iterdir()}
        return {
            name: (text, stat.st_mode, stat.st_mtime, stat.st_nlink)
            for name, (text, stat) in found.items()
        }

    def told(self, code: str) -> str:
        names = {
            "REACHED": repr(GOT_OUT),
            "SECRET": repr(str(self.secret)),
            "FOLDER": repr(str(self.folder)),
            "TRAINER": str(os.getpid()),
            "PORT": str(self.tcp.getsockname()[1]),
            "SOCKET": repr(f"attacked-{os.getpid()}"),
        }
        return "\n".join(f"{name} = {value}" for name, value in names.items()) + code


@pytest.fixture
def attacked(tmp_path):
    attacked = Attacked(tmp_path)
    yield attacked
    attacked.tcp.close()
    attacked.unix.close()


@pytest.mark.parametrize("name", ALL)
def test_walls_stand(sandbox, attacked, name):
    run = sandbox.run(attacked.told(ALL[name]), 10.0)

    assert GOT_OUT not in run.output, run
    assert THE_ANSWER not in run.output
    assert attacked.state() == attacked.before
    assert sandbox.run("import os; print(os.listdir('.'))", 10.0).output == "[]\n"


@pytest.mark.parametrize("name", BEYOND_WALLS)
def test_the_same_gets_through_where_there_are_no_walls(open_sandbox, attacked, name):
    run = open_sandbox.run(attacked.told(BEYOND_WALLS[name]), 10.0)

    assert GOT_OUT in run.output, run


@pytest.mark.parametrize("name", BEYOND_LIMITS)
def test_limits_hold_without_walls_too(open_sandbox, attacked, name):
    assert GOT_OUT not in open_sandbox.run(attacked.told(BEYOND_LIMITS[name]), 10.0).output
