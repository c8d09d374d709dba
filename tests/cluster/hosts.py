"""Emulated hosts on this machine, which a test may unplug and crash.

Each has a network, processes, shared memory and a name of its own. Files they share, as if all of
the disk were shared storage, except `/dev/shm` and `/tmp/ray`. Beside them is `ctl`, from where
they are ruled. None of their processes outlives the block, or the process that is in it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import pytest

CONTROL = "ctl"
_NETWORK = "10.77.0"
_LINE = "v{}"
_APART = [
    *("unshare", "--fork", "--kill-child", "--pid", "--mount", "--mount-proc"),
    *("--net", "--ipc", "--uts"),
]
# The first process of a host, with which all others of it end: it does so when its standard input
# is closed, by us or by our death. Orphans are nobody's zombies, as their end is ignored.
_FIRST = """
set -e
hostname "$1"
mount --bind "$2/hosts" /etc/hosts
mount --bind "$2/resolv.conf" /etc/resolv.conf
mount -t tmpfs -o size=2g,mode=1777 tmpfs /dev/shm
mount -t tmpfs -o size=2g,mode=1777 tmpfs /tmp/ray
ip link set lo up
echo ready
exec env --ignore-signal=CHLD cat
"""
_BRIDGE = f"""
set -e
ip link add br0 type bridge
ip address add {_NETWORK}.1/24 dev br0
ip link set br0 up
"""
# Without a default route Ray does not find the address of its host.
_PLUG = f"""
set -e
ip address add "$1/24" dev eth0
ip link set eth0 up
ip route add default via {_NETWORK}.1
"""


class Hosts:
    """`ctl` (10.77.0.1) and `h1` (10.77.0.11), `h2`, ..., for the time of a `with` block.

    Skips the test where such hosts cannot be had.
    """

    def __init__(self, count: int) -> None:
        self.names = [f"h{number}" for number in range(1, count + 1)]
        self._folder = Path()
        # By name, what we have started, and the number of the first process, which that became.
        self._started: dict[str, subprocess.Popen[str]] = {}
        self._first: dict[str, int] = {}

    def address(self, name: str) -> str:
        """Of a host, IPv4."""
        return f"{_NETWORK}.{1 if name == CONTROL else 10 + int(name[1:])}"

    def __enter__(self) -> Hosts:
        if os.geteuid() != 0:
            pytest.skip("emulated hosts need root")
        if not all(shutil.which(program) for program in ("unshare", "nsenter", "setpriv", "ip")):
            pytest.skip("emulated hosts need util-linux and iproute2")
        self._folder = Path(tempfile.mkdtemp(prefix="hosts-"))
        names = [CONTROL, *self.names]
        lines = ["127.0.0.1 localhost", *(f"{self.address(name)} {name}" for name in names)]
        (self._folder / "hosts").write_text("".join(f"{line}\n" for line in lines))
        # Nobody listens there: whoever asks is refused at once, where others wait for seconds.
        (self._folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        Path("/tmp/ray").mkdir(exist_ok=True)
        try:
            self._start(CONTROL, [])
            self._shell(CONTROL, _BRIDGE)
            for name in self.names:
                self.restart(name)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def command(self, name: str, command: list[str]) -> list[str]:
        """What runs a command on a host, from here; a SIGKILL for it ends the command too."""
        return [*self._into(name), "setpriv", "--pdeathsig", "KILL", *command]

    def run(
        self, name: str, command: list[str], **options: Any
    ) -> subprocess.CompletedProcess[Any]:
        """`subprocess.run` on a host, in our working directory."""
        return subprocess.run(self.command(name, command), **options)

    def popen(self, name: str, command: list[str], **options: Any) -> subprocess.Popen[Any]:
        """`subprocess.Popen` on a host, in our working directory.

        Other signals than SIGKILL are to be sent to its child, which is the command.
        """
        return subprocess.Popen(self.command(name, command), **options)

    def processes(self, name: str) -> dict[int, str]:
        """The command lines of all that runs on a host, by the process' number there.

        Those of `ctl` are everybody's; a host that has crashed has none.
        """
        if name not in self._first:
            return {}
        lines: dict[int, str] = {}
        for entry in Path(f"/proc/{self._first[name]}/root/proc").iterdir():
            if entry.name.isdigit() and entry.name != "1":
                try:
                    # That of a zombie is empty.
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                except OSError:  # It has just ended.
                    continue
                if line:
                    lines[int(entry.name)] = line
        return lines

    def unplug(self, name: str) -> None:
        """Pull the cable of a host: nothing comes through, and nobody is told."""
        self._shell(CONTROL, f"ip link set {_line_of(name)} down")

    def replug(self, name: str) -> None:
        """Put the cable back."""
        self._shell(CONTROL, f"ip link set {_line_of(name)} up")

    def crash(self, name: str) -> None:
        """Kill all processes of a host at once; its peers see the connections closed."""
        os.kill(self._first.pop(name), signal.SIGKILL)
        self._started.pop(name).communicate()

    def restart(self, name: str) -> None:
        """Start a host, which has crashed or not been there; nothing runs on it.

        Who has looked for it in vain finds it after a second or two.
        """
        line = _line_of(name)
        # Of one that has crashed, the system takes away the line in its own time.
        self._shell(CONTROL, f"ip link delete {line} 2>/dev/null || true")
        self._start(name, self._into(CONTROL))
        # As ctl counts the processes, in whose network the line begins.
        [*_, first] = _status_of(self._first[name])["NSpid"][:-1]
        # The same card again: its peers remember that.
        card = f"02:00:00:00:00:{int(name[1:]):02x}"
        add = f"ip link add {line} type veth peer name eth0 address {card} netns {first}"
        self._shell(CONTROL, f"{add} && ip link set {line} master br0 up")
        self._shell(name, _PLUG, self.address(name))

    def _start(self, name: str, into: list[str]) -> None:
        command = [*into, *_APART, "sh", "-c", _FIRST, "sh", name, str(self._folder)]
        started = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert started.stdout is not None
        if started.stdout.readline() != "ready\n":
            _, said = started.communicate()
            pytest.skip(f"emulated hosts are refused here: {said.strip()}")
        [*_, first] = psutil.Process(started.pid).children(recursive=True)
        self._started[name], self._first[name] = started, first.pid

    def _into(self, name: str) -> list[str]:
        return ["nsenter", "--target", str(self._first[name]), "--all", f"--wdns={Path.cwd()}"]

    def _shell(self, name: str, script: str, *arguments: str) -> None:
        self.run(name, ["sh", "-c", script, "sh", *arguments], check=True)

    def _end(self) -> None:
        # With the first process of ctl end those of the hosts, which are below it.
        for started in self._started.values():
            started.communicate()
        self._started.clear()
        shutil.rmtree(self._folder)


def _line_of(name: str) -> str:
    return _LINE.format(name[1:])


def _status_of(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
