"""A real Slurm cluster on this machine: munged, slurmctld and a slurmd for each node.

python -m tests.slurm.cluster [NODES]      # one to try things on, until Enter is pressed

Everything of it (key, sockets, spool, logs, pids) is in one folder, and `SLURM_CONF` alone says
which cluster a command means, so it disturbs none that is there already.

namespaces   each node has a network, a host name, /etc/hosts and /dev/shm of its own (needs root)
loopback     the nodes are slurmds on ports of 127.0.0.1, where namespaces are not allowed
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from getpass import getuser
from pathlib import Path

DAEMONS = ("slurmctld", "slurmd", "munged")
_CPUS_PER_NODE = 4
_GPUS_PER_NODE = 4
_MIB_PER_NODE = 8000


def missing_programs() -> list[str]:
    """Programs that a cluster needs and this machine lacks."""
    return [name for name in (*DAEMONS, "sbatch", "scontrol") if shutil.which(name) is None]


def can_use_namespaces() -> bool:
    """Whether this user may make networks and host names for the nodes."""
    name = f"probe{os.getpid()}"
    if os.getuid() != 0 or shutil.which("ip") is None or not _succeeds("ip", "netns", "add", name):
        return False
    try:
        return _succeeds(
            "nsenter", f"--net=/run/netns/{name}", "unshare", "--uts", "--mount", "true"
        )
    finally:
        _run("ip", "netns", "del", name)


def environment_of(pid: int) -> dict[str, str]:
    """What a process was started with; empty if it is gone."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def step_daemons_of(pids: Iterable[int]) -> set[int]:
    """The slurmstepd that are parents of these processes."""
    daemons = set()
    for pid in pids:
        with contextlib.suppress(OSError):  # Gone meanwhile.
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            if Path(f"/proc/{parent}/comm").read_text().startswith("slurmstepd"):
                daemons.add(parent)
    return daemons


@dataclass
class Cluster:
    """Nodes n1, n2, ...; `with Cluster.start(3) as cluster` ends what it started."""

    folder: Path
    num_nodes: int
    has_namespaces: bool

    @classmethod
    def start(cls, num_nodes: int, *, namespaces: bool | None = None) -> Cluster:
        """Start one; `namespaces` None takes them where they are allowed."""
        # Not a folder of pytest's: munged wants every parent of its socket to let others pass.
        folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        folder.chmod(0o755)
        for name in ("dev", "log", "run", "spool", "state"):
            (folder / name).mkdir()
        (folder / "run").chmod(0o755)
        chosen = can_use_namespaces() if namespaces is None else namespaces
        cluster = cls(folder, num_nodes, chosen)
        try:
            cluster._start()
        except BaseException:
            cluster.stop()
            raise
        return cluster

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def nodes(self) -> list[str]:
        """Their names."""
        return [f"n{number}" for number in range(1, self.num_nodes + 1)]

    @property
    def environment(self) -> dict[str, str]:
        """What Slurm's commands are called with."""
        own = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        return own | {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *command: object, check: bool = True) -> str:
        """What a command of Slurm's prints."""
        return _run(*command, environment=self.environment, check=check)

    def kill_node(self, node: str) -> None:
        """As if its power failed: its daemon, the steps and their tasks, all at once."""
        if self.has_namespaces:
            pids = [int(pid) for pid in _run("ip", "netns", "pids", self._namespace(node)).split()]
        else:
            tasks = [
                pid
                for pid in self.processes()
                if environment_of(pid).get("SLURMD_NODENAME") == node
            ]
            pids = [self._pid(f"slurmd-{node}"), *step_daemons_of(tasks), *tasks]
        for pid in filter(None, pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def revive_node(self, node: str) -> None:
        """Start its daemon again."""
        self._start_node(node)
        self.wait_until_idle()

    def wait_until_idle(self, seconds: float = 120) -> None:
        """Until every node is up, and has nothing to do or to end."""
        deadline = time.monotonic() + seconds
        while self._num_idle() < self.num_nodes:
            assert time.monotonic() < deadline, self.run("sinfo", "-N", "-l", check=False)
            time.sleep(0.05)

    def processes(self) -> list[int]:
        """Pids of everything that jobs of this cluster run."""
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        ours = str(self.folder / "slurm.conf")
        environments = {pid: environment_of(pid) for pid in pids}
        return [
            pid
            for pid, environment in environments.items()
            if environment.get("SLURM_CONF") == ours and "SLURM_JOB_ID" in environment
        ]

    def stop(self) -> None:
        """End the jobs, then the daemons by their pids, then take the networks away."""
        if self._pid("slurmctld") is not None:
            self.run("scancel", f"--user={getuser()}", check=False)
            deadline = time.monotonic() + 20
            while self.run("squeue", "--noheader", check=False) and time.monotonic() < deadline:
                time.sleep(0.1)
        for name in (*(f"slurmd-{node}" for node in self.nodes), "slurmctld", "munged"):
            self._stop_daemon(name)
        if self.has_namespaces:
            for number, node in self._numbered():
                _run("ip", "link", "del", f"{self._tag}v{number}", check=False)
                _run("ip", "netns", "del", self._namespace(node), check=False)
            _run("ip", "link", "del", f"{self._tag}br", check=False)
        if not os.environ.get("KEEP_SLURM"):
            shutil.rmtree(self.folder)

    # How it is built.

    @property
    def _tag(self) -> str:
        return f"ms{os.getpid() % 100000}"

    @property
    def _network(self) -> str:
        """Three numbers of its addresses, another for each process that has a cluster."""
        return f"10.{64 + os.getpid() // 250 % 64}.{os.getpid() % 250}"

    def _namespace(self, node: str) -> str:
        return f"{self._tag}{node}"

    def _address(self, number: int) -> str:
        return f"{self._network}.{number}" if self.has_namespaces else "127.0.0.1"

    def _start(self) -> None:
        folder, host = self.folder, socket.gethostname().split(".")[0]
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        (folder / "slurm.conf").write_text(self._slurm_conf(host))
        devices = [folder / f"dev/gpu{number}" for number in range(_GPUS_PER_NODE)]
        for device in devices:  # Slurm counts and numbers them; nothing computes on them.
            device.symlink_to("/dev/null")
        (folder / "gres.conf").write_text("".join(f"Name=gpu File={path}\n" for path in devices))
        hosts = [("127.0.0.1", "localhost"), (self._address(254), host)]
        hosts += [(self._address(number), node) for number, node in self._numbered()]
        lines = [f"{address} {name}\n" for address, name in hosts]
        (folder / "hosts").write_text("".join(lines))
        run = folder / "run"
        self.run(
            *("munged", f"--key-file={key}", f"--socket={run}/munge.sock"),
            *(f"--pid-file={run}/munged.pid", f"--seed-file={run}/munge.seed"),
            f"--log-file={folder}/log/munged.log",
        )
        if self.has_namespaces:
            bridge = f"{self._tag}br"
            _run("ip", "link", "add", bridge, "type", "bridge")
            _run("ip", "addr", "add", f"{self._address(254)}/24", "dev", bridge)
            _run("ip", "link", "set", bridge, "up")
        self.run("slurmctld", "-c")
        for number, node in self._numbered():
            if self.has_namespaces:
                self._add_namespace(number, node)
            self._start_node(node)
        self.wait_until_idle()

    def _add_namespace(self, number: int, node: str) -> None:
        space, link = self._namespace(node), f"{self._tag}v{number}"
        _run("ip", "netns", "add", space)
        _run(*("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space))
        _run("ip", "link", "set", link, "master", f"{self._tag}br", "up")
        inside = ("ip", "-n", space)
        _run(*inside, "addr", "add", f"{self._address(number)}/24", "dev", "eth0")
        _run(*inside, "link", "set", "eth0", "up")
        _run(*inside, "link", "set", "lo", "up")

    def _start_node(self, node: str) -> None:
        if not self.has_namespaces:
            self.run("slurmd", "-N", node)
            return
        # Not `ip netns exec`: it hides /sys/fs/cgroup, which slurmd wants to see.
        self.run(
            *("nsenter", f"--net=/run/netns/{self._namespace(node)}"),
            *("unshare", "--uts", "--mount", "bash", "-ec"),
            f"hostname {node}; mount --bind {self.folder}/hosts /etc/hosts; "
            f"mount -t tmpfs shm /dev/shm; exec slurmd -N {node}",
        )

    def _slurm_conf(self, host: str) -> str:
        folder, user = self.folder, getuser()
        first_port = _free_ports(1 + (0 if self.has_namespaces else self.num_nodes))
        lines = [
            "ClusterName=test",
            f"SlurmctldHost={host}({self._address(254)})",
            f"SlurmctldPort={first_port}",
            f"SlurmUser={user}",
            f"SlurmdUser={user}",
            "AuthType=auth/munge",
            "CredType=cred/munge",
            # A job that is queued again waits until its old credential has expired: 5 s at least.
            f"AuthInfo=socket={folder}/run/munge.sock,cred_expire=5",
            f"StateSaveLocation={folder}/state",
            f"SlurmdSpoolDir={folder}/spool/%n",
            f"SlurmctldPidFile={folder}/run/slurmctld.pid",
            f"SlurmdPidFile={folder}/run/slurmd-%n.pid",
            f"SlurmctldLogFile={folder}/log/slurmctld.log",
            f"SlurmdLogFile={folder}/log/slurmd-%n.log",
            *("ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none"),
            *("JobAcctGatherType=jobacct_gather/none", "MpiDefault=none", "MailProg=/bin/true"),
            "AccountingStorageType=accounting_storage/none",
            # More cores than this machine has.
            *("SlurmdParameters=config_overrides", "PropagateResourceLimits=NONE"),
            # As most clusters: cores, memory and GPUs are what jobs and their steps take up.
            *("SelectType=select/cons_tres", "SelectTypeParameters=CR_Core_Memory"),
            "GresTypes=gpu",
            # A test does not wait for the pace of a large cluster.
            "SchedulerParameters="
            "batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1",
            *("KillWait=10", "MinJobAge=3600", "SlurmdTimeout=5", "ReturnToService=2"),
            # A job in `urgent` takes the nodes of one in `main`, which hears its signal first.
            *("PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE"),
            "SlurmctldParameters=preempt_send_user_signal",
            *(self._node_line(number, node, host, first_port) for number, node in self._numbered()),
            "PartitionName=main Nodes=ALL Default=YES PriorityTier=1 GraceTime=30 State=UP",
            "PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP",
        ]
        return "\n".join(lines) + "\n"

    def _numbered(self) -> list[tuple[int, str]]:
        return list(enumerate(self.nodes, 1))

    def _node_line(self, number: int, node: str, host: str, first_port: int) -> str:
        place = f"NodeName={node} NodeAddr={self._address(number)}"
        if not self.has_namespaces:
            place += f" NodeHostname={host} Port={first_port + number}"
        size = f"CPUs={_CPUS_PER_NODE} RealMemory={_MIB_PER_NODE} Gres=gpu:{_GPUS_PER_NODE}"
        return f"{place} {size}"

    def _num_idle(self) -> int:
        idle = self.run("sinfo", "-h", "-p", "main", "-t", "idle", "-o", "%D", check=False)
        return int(idle.strip() or 0)

    def _pid(self, name: str) -> int | None:
        """Of the daemon that wrote this pid file, if it is still that daemon and alive."""
        try:
            pid = int((self.folder / f"run/{name}.pid").read_text())
            command, state = Path(f"/proc/{pid}/stat").read_text().split()[1:3]
        except (OSError, ValueError):
            return None
        is_ours = environment_of(pid).get("SLURM_CONF") == str(self.folder / "slurm.conf")
        return pid if command.strip("()") in DAEMONS and state != "Z" and is_ours else None

    def _stop_daemon(self, name: str) -> None:
        pid = self._pid(name)
        if pid is None:
            return
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 10
        while self._pid(name) == pid and time.monotonic() < deadline:
            time.sleep(0.02)
        if self._pid(name) == pid:
            os.kill(pid, signal.SIGKILL)


def _run(*command: object, environment: dict[str, str] | None = None, check: bool = True) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _free_ports(count: int) -> int:
    """The first of so many ports in a row that nothing listens on."""
    for first in range(17000 + os.getpid() % 10000, 32000, count):
        with socket.socket() as probe:
            if all(probe.connect_ex(("127.0.0.1", first + i)) for i in range(count)):
                return first
    raise AssertionError("no free ports")


def main() -> None:
    """Bring one up, say how to use it, take it down."""
    with Cluster.start(int(sys.argv[1]) if len(sys.argv) > 1 else 3) as cluster:
        kind = "namespaces" if cluster.has_namespaces else "loopback"
        print(f"export SLURM_CONF={cluster.folder}/slurm.conf   # {kind}")
        input("Enter ends it ")


if __name__ == "__main__":
    main()
