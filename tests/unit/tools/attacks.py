"""What a model's code may try: each prints REACHED where it has got out, or got at something.

Names in capitals stand for what the attacked has: SECRET, a file of a run; FOLDER, in which it is;
TRAINER, a process id; PORT, on which it listens; SOCKET, the name of an abstract socket. REACHED is
a name, too: of words that no traceback shows.
"""

from __future__ import annotations

BEYOND_WALLS = {
    "connects to the trainer": """
import socket
socket.create_connection(("127.0.0.1", PORT), timeout=2)
print(REACHED)
""",
    "sends a datagram": """
import socket
print(REACHED, socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", PORT)))
""",
    "connects to an abstract socket": """
import socket
socket.socket(socket.AF_UNIX).connect("\\0" + SOCKET)
print(REACHED)
""",
    "reads a file of the run": """
print(REACHED, open(SECRET).read())
""",
    "lists the run's folder": """
import os
print(REACHED, os.listdir(FOLDER))
""",
    "reads through a symbolic link": """
import os
os.symlink(SECRET, "link")
print(REACHED, open("link").read())
""",
    "reads through a hard link": """
import os
os.link(SECRET, "link")
print(REACHED, open("link").read())
""",
    "reads with its folder left by ..": """
import os
print(REACHED, open(os.path.relpath(SECRET)).read())
""",
    "reads through C": """
import ctypes
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
print(REACHED if libc.fopen(SECRET.encode(), b"r") else "no")
""",
    "reads the trainer's environment": """
print(REACHED, open(f"/proc/{TRAINER}/environ").read())
""",
    "reads the trainer's command line": """
print(REACHED, open(f"/proc/{TRAINER}/cmdline").read())
""",
    "reads by the trainer's root": """
print(REACHED, open(f"/proc/{TRAINER}/root{SECRET}").read())
""",
    "reads its parent's memory by /proc": """
import os
open(f"/proc/{os.getppid()}/mem", "rb").close()
print(REACHED)
""",
    "lists processes": """
import os
print(REACHED, [name for name in os.listdir("/proc") if name.isdigit()][0])
""",
    "writes beside the run": """
open(FOLDER + "/planted", "w").write("x")
print(REACHED)
""",
    "appends to a file of the run": """
open(SECRET, "a").close()
print(REACHED)
""",
    "changes who may read a file": """
import os
os.chmod(SECRET, 0o666)
print(REACHED)
""",
    "changes a file's time": """
import os
os.utime(SECRET, (1, 1))
print(REACHED)
""",
    "changes a file's attributes": """
import os
os.setxattr(SECRET, "user.x", b"x")
print(REACHED)
""",
    "renames a file of the run": """
import os
os.rename(SECRET, SECRET)
print(REACHED)
""",
    "writes into a library": """
import json
open(json.__file__, "a").close()
print(REACHED)
""",
    "empties a file that it opens to read": """
import os
os.open(FOLDER + "/victim", os.O_RDONLY | os.O_TRUNC)
print(REACHED)
""",
    "signals the trainer": """
import os
os.kill(TRAINER, 0)
print(REACHED)
""",
    "signals its parent": """
import os
os.kill(os.getppid(), 0)
print(REACHED)
""",
    "signals its process group": """
import os
os.kill(0, 0)
print(REACHED)
""",
    "signals everything": """
import os
os.kill(-1, 0)
print(REACHED)
""",
    "signals by a descriptor of a process": """
import os, signal
signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 0)
print(REACHED)
""",
    "has its parent sent signals": """
import fcntl, os
fcntl.fcntl(1, fcntl.F_SETOWN, os.getppid())
print(REACHED)
""",
    "traces its parent": """
import ctypes, os
print(REACHED if ctypes.CDLL(None).ptrace(0x4206, os.getppid(), None, None) == 0 else "no")
""",
    "copies its parent's memory": """
import ctypes, os
class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
here = ctypes.create_string_buffer(8)
there = Part(id(os), 8)  # A fork has the same addresses.
local = Part(ctypes.addressof(here), 8)
copied = ctypes.CDLL(None).process_vm_readv(
    os.getppid(), ctypes.byref(local), 1, ctypes.byref(there), 1, 0)
print(REACHED if copied == 8 else "no")
""",
    "reads its parent's limits": """
import os, resource
resource.prlimit(os.getppid(), resource.RLIMIT_CORE)
print(REACHED)
""",
    "forks": """
import os, time
for _ in range(20):
    if os.fork() == 0:
        time.sleep(2)
        os._exit(0)
print(REACHED)
""",
    "leaves a process behind": """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 3)
        time.sleep(2)
    os._exit(0)
os.wait()
print(REACHED)
""",
    "starts threads": """
import threading, time
for _ in range(3):
    threading.Thread(target=time.sleep, args=(0.2,)).start()
print(REACHED)
""",
    "runs a program": """
import os
os.execv("/usr/bin/env", ["env", "echo", REACHED])
""",
    "runs a shell": """
import subprocess
print(subprocess.run(f"echo {REACHED}", shell=True, capture_output=True).stdout)
""",
    "makes namespaces": """
import ctypes
print(REACHED if ctypes.CDLL(None).unshare(0x10000000) == 0 else "no")
""",
    "opens doors of the kernel": """
import ctypes, platform
numbers = {"x86_64": {"perf_event_open": 298, "add_key": 248, "bpf": 321, "memfd_create": 319,
                      "userfaultfd": 323, "shmget": 29, "mq_open": 240, "inotify_init1": 294},
           "aarch64": {"perf_event_open": 241, "add_key": 217, "bpf": 280, "memfd_create": 279,
                       "userfaultfd": 282, "shmget": 194, "mq_open": 180, "inotify_init1": 26}}
libc = ctypes.CDLL(None, use_errno=True)
for name, number in {**numbers[platform.machine()], "io_uring_setup": 425, "clone3": 435}.items():
    result = libc.syscall(number, b"x", 0, 0, 0, 0)
    if result >= 0 or ctypes.get_errno() != 1:
        print(REACHED, name, ctypes.get_errno())
""",
    "becomes another user": """
import os
os.setgroups([])
os.setuid(0)
print(REACHED)
""",
    "reads a device": """
print(REACHED, open("/dev/zero", "rb").read(1))
""",
}
"""Reached where there are no walls, and nowhere else."""

PERHAPS_BEYOND_WALLS = {
    "raises its limits": """
import resource
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(REACHED)
""",
}
"""Reached without walls on some machines, by some users."""

X86_ONLY = {
    "calls the kernel as a 32-bit program": """
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")  # mov eax, 20 (getpid); int 0x80; ret
call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
print(REACHED, call())
""",
    "calls the kernel by numbers of x32": """
import ctypes
print(REACHED if ctypes.CDLL(None).syscall(0x40000000 + 39) >= 0 else "no")
""",
}

BEYOND_LIMITS = {
    "takes memory": """
kept = [bytearray(64 << 20) for _ in range(40)]
print(REACHED)
""",
    "takes shared memory": """
import mmap
kept = [mmap.mmap(-1, 1 << 30) for _ in range(3)]
print(REACHED)
""",
    "writes a file of 1 GB": """
with open("large", "wb") as file:
    for _ in range(1024):
        file.write(bytes(1 << 20))
print(REACHED)
""",
    "writes a sparse file": """
with open("sparse", "wb") as file:
    file.truncate(1 << 30)
print(REACHED)
""",
    "writes many files": """
for i in range(100_000):
    open(str(i), "w").write("x")
print(REACHED)
""",
    "writes files that are removed": """
kept = []
for i in range(1000):
    kept.append(open(str(i), "wb", buffering=0))
    kept[-1].write(bytes(1 << 20))
print(REACHED)
""",
    "reads descriptors of others": """
import os
for descriptor in range(3, 1000):
    try:
        os.fstat(descriptor)
    except OSError:
        continue
    print(REACHED, descriptor)
""",
    "reads an environment": """
import ctypes, os
environ = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ")
if os.environ or (environ and environ[0]):
    print(REACHED, os.environ, environ[0])
""",
}
"""Reached nowhere."""
