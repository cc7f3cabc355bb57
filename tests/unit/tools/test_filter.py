"""The filter of system calls and the rules of Landlock, each by itself."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_stare.tools.sandbox import confine, landlock, seccomp
from megatron_stare.tools.sandbox.syscalls import AARCH64, X86_64

HEADERS = {
    "x86_64": (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), X86_64),
    "aarch64": (Path("/usr/include/asm-generic/unistd.h"), AARCH64),
}
HARMFUL = re.compile(
    r"fork|clone|exec|socket|connect|bind|send|recv|ptrace|process_vm|pidfd|mount|namespace|setns"
    r"|unshare|chroot|pivot|chmod|chown|utime|xattr|link(at)?$|mk(dir|nod)|truncate|module|bpf|perf"
    r"|keyctl|io_uring|shm|msg|sem|mq_|prctl|set(uid|gid|pgid|sid|groups|priority|rlimit)|ptrace"
)
ALLOWED_AFTER_ALL = {"readlink", "readlinkat", "unlink", "unlinkat", "ftruncate"}


@pytest.mark.parametrize("machine", HEADERS)
def test_numbers_are_those_of_the_kernels_headers(machine):
    header, table = HEADERS[machine]
    if not header.exists():
        pytest.skip(f"{header} is not installed")
    found = re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)", header.read_text())
    numbers = {
        name.replace("fstatat", "newfstatat") if machine == "aarch64" else name: int(number)
        for name, number in found
    }

    assert {name: numbers.get(name) for name in table} == table


@pytest.mark.parametrize("machine", HEADERS)
def test_no_call_that_reaches_others_is_on_the_list(machine):
    _, table = HEADERS[machine]
    assert {name for name in table if HARMFUL.search(name)} <= ALLOWED_AFTER_ALL


def in_a_child(act: Callable[[], object]) -> int:
    """The exit code of a fork that does something: 0, or the number of an OSError."""
    child = os.fork()
    if child == 0:
        code = 255
        try:
            act()
            code = 0
        except OSError as error:
            code = error.errno or 255
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def filtered(act: Callable[[], object]) -> Callable[[], object]:
    def run():
        confine._prctl(38, 1)
        seccomp.install(os.getpid())
        act()

    return run


@pytest.mark.parametrize(
    ("act", "result"),
    [
        (os.getpid, 0),
        (lambda: os.kill(os.getpid(), 0), 0),
        (lambda: os.kill(os.getpid(), 9), errno.EPERM),
        (lambda: os.kill(os.getpid() + (1 << 20), 0), errno.EPERM),
        (lambda: os.kill(os.getpid(), 15), -15),
        (os.fork, errno.EPERM),
        (lambda: os.mkdir("/nowhere/at/all"), errno.EPERM),
        (lambda: os.open("/nowhere", os.O_RDONLY), errno.ENOENT),
    ],
)
def test_the_filter_lets_through_what_is_on_the_list(act, result):
    assert in_a_child(filtered(act)) == result


@pytest.fixture
def folders(tmp_path):
    if landlock.version() < landlock.MIN_VERSION:
        pytest.skip(f"the kernel has Landlock {landlock.version()}")
    for name in ("readable", "usable", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    return tmp_path


@pytest.mark.parametrize(
    ("folder", "flags", "result"),
    [
        ("readable", os.O_RDONLY, 0),
        ("readable", os.O_WRONLY, errno.EACCES),
        ("readable", os.O_RDONLY | os.O_TRUNC, errno.EACCES),
        ("usable", os.O_RDWR | os.O_TRUNC, 0),
        ("other", os.O_RDONLY, errno.EACCES),
        ("usable/../other", os.O_RDONLY, errno.EACCES),
    ],
)
def test_rules_open_what_they_name(folders, folder, flags, result):
    ruleset = landlock.make_ruleset(
        [folders / "readable", folders / "is-not-there"], [folders / "usable"]
    )

    def act():
        confine._prctl(38, 1)
        landlock.restrict(ruleset)
        os.close(os.open(f"{folders}/{folder}/file", flags))

    assert in_a_child(act) == result
    assert (folders / "readable" / "file").read_text() == "x"
    os.close(ruleset)


def test_a_new_file_needs_a_folder_that_may_be_used(folders):
    ruleset = landlock.make_ruleset([folders / "readable"], [folders / "usable"])

    def made(folder):
        def act():
            confine._prctl(38, 1)
            landlock.restrict(ruleset)
            open(folders / folder / "new", "w").close()

        return in_a_child(act)

    assert (made("usable"), made("readable")) == (0, errno.EACCES)
    os.close(ruleset)


def test_the_address_space_is_what_the_kernel_says():
    pages = int(Path("/proc/self/statm").read_text().split()[0])

    assert abs(confine.address_space() - 4096 * pages) < 4 << 20
