"""The tool `python`: what the model is told of its code, and what is a failure."""

from __future__ import annotations

import subprocess
import sys

import pytest

from megatron_stare.config.tools import LimitsConfig, ToolsConfig
from megatron_stare.errors import UserError
from megatron_stare.tools import python
from megatron_stare.tools.python import PythonTool
from megatron_stare.tools.sandbox.pool import trouble_with


@pytest.fixture(scope="module")
def session(any_walls):
    limits = LimitsConfig(cpu_s=1, memory_mib=64, files_mib=1, output_kib=1)
    tool = PythonTool(ToolsConfig(sandbox=any_walls, packages=(), limits=limits))
    tool.start()
    yield tool.session()
    tool.close()


@pytest.mark.parametrize(
    ("code", "text", "ok"),
    [
        ("print(6 * 7)", "42\n", True),
        ("", "", True),
        ("while True: pass", "[the run was ended after 1 seconds of processor time]\n", False),
        ("import os; os.abort()", "[the run was ended by signal 6]\n", False),
    ],
)
def test_the_model_is_told_what_came_of_its_code(session, code, text, ok):
    result = session.call({"code": code}, 60)

    assert (result.text, result.ok, result.failure) == (text, ok, None)


def test_the_model_is_told_of_its_deadline(session):
    result = session.call({"code": "import time; time.sleep(99)"}, 0.2)

    assert (result.text, result.ok) == ("[the run was ended after 0.2 seconds]\n", False)


def test_output_is_cut_and_said_to_be(session):
    text = session.call({"code": "print('x' * 5000)"}, 60).text

    assert text == "x" * 1024 + "\n[the run was ended after 1 KiB of output]\n"


def test_memory_ends_in_an_error_of_the_code(session):
    assert session.call({"code": "x = bytearray(10**9)"}, 60).text.endswith("MemoryError\n")


def test_wrong_arguments_are_the_models_doing(session):
    result = session.call({"source": "print(1)"}, 60)

    assert result.text == "argument code is missing\nthere is no argument source"
    assert (result.ok, result.failure) == (False, None)


def test_half_a_character_in_the_code_is_no_failure(session):
    assert session.call({"code": "print('\ud800')"}, 60).text == "?\n"


def test_a_sandbox_that_fails_is_no_answer(any_walls):
    tool = PythonTool(ToolsConfig(sandbox=any_walls, packages=()))
    tool.start()
    session = tool.session()
    tool.close()
    result = session.call({"code": "print(1)"}, 60)

    assert (result.ok, result.failure) == (False, "the sandbox is closed")


WITHOUT_LANDLOCK = """
import ctypes, os, struct
from megatron_stare.config.tools import ToolsConfig
from megatron_stare.errors import UserError
from megatron_stare.tools.python import PythonTool

libc = ctypes.CDLL(None)
refuse, allow = 0x00050000 | 38, 0x7FFF0000
rules = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, refuse), (0x06, 0, 0, allow)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
libc.prctl(38, 1, 0, 0, 0)
assert libc.prctl(22, 2, struct.pack("HxxxxxxP", 4, ctypes.addressof(code)), 0, 0) == 0
os.environ["PATH"] = "/nowhere"
try:
    PythonTool(ToolsConfig()).start()
except UserError as error:
    print(error)
"""


def test_a_run_refuses_to_start_where_no_walls_work():
    """On a kernel that does not know Landlock's system calls, without bubblewrap."""
    command = [sys.executable, "-c", WITHOUT_LANDLOCK]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert said == (
        "tools.sandbox=auto: bubblewrap does not work here: there is no program bwrap (package "
        "bubblewrap); landlock does not work here: the kernel has no Landlock of version 3 (Linux "
        "6.2). Expected walls that work (megatron-stare tools --check), or `none`, with which a "
        "model's code may do what this process may\n"
    )


def test_walls_that_are_asked_for_are_not_replaced(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(UserError, match="there is no program bwrap"):
        PythonTool(ToolsConfig(sandbox="bubblewrap")).start()


def test_without_bubblewrap_auto_takes_landlock(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    if trouble_with("landlock"):
        pytest.skip("landlock does not work here")

    assert python._chosen_walls("auto") == "landlock"


def test_a_package_that_is_missing_stops_the_start():
    with pytest.raises(UserError, match=r"tools\.packages: package no_such is not installed"):
        PythonTool(ToolsConfig(packages=("no_such",))).start()


def test_none_has_to_be_asked_for_by_name():
    tool = PythonTool(ToolsConfig(sandbox="none", packages=()))
    tool.start()
    text = tool.session().call({"code": "import os; print(os.path.exists('/proc'))"}, 5).text
    tool.close()

    assert text == "True\n"
