"""A real Slurm over emulated hosts: its daemons, its own configuration, nothing of the system's."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.hosts import CONTROL, Hosts

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "sinfo")
# What is used of Slurm by distcnn, from outside.
_COMMANDS = ("sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun")
_PARTITION = "debug"
# No accounting, so no sacct; a node that is silent for some seconds is down.
_CONFIGURATION = """
ClusterName=test
SlurmctldHost={control}({address})
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000
SlurmdTimeout=6
KillWait=5
ReturnToService=2
{nodes}
PartitionName={partition} Nodes=ALL Default=YES MaxTime=01:00:00 State=UP
"""


class SlurmCluster:
    """What runs on the hosts, and how to reach it from here."""

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        self.hosts = hosts
        self.folder = folder
        self.configuration = folder / "slurm.conf"

    def start(self) -> None:
        """Start all daemons, and wait until all nodes wait for work."""
        (self.folder / "state").mkdir()
        nodes = "\n".join(
            f"NodeName={name} NodeAddr={self.hosts.address(name)} CPUs=2 RealMemory=4000"
            for name in self.hosts.names
        )
        self.configuration.write_text(
            _CONFIGURATION.format(
                control=CONTROL,
                address=self.hosts.address(CONTROL),
                folder=self.folder,
                nodes=nodes,
                partition=_PARTITION,
            )
        )
        self._start_munge()
        self.start_controller()
        for name in self.hosts.names:
            self.start_node(name)
        self._write_commands()
        wait_for(lambda: self.idle() == set(self.hosts.names))

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        folder.mkdir()
        folder.chmod(0o755)
        key = folder / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        options = [
            *(f"--key-file={key}", f"--socket={folder}/socket", f"--pid-file={folder}/pid"),
            *(f"--seed-file={folder}/seed", f"--log-file={folder}/log", "--force"),
        ]
        self.hosts.run(CONTROL, ["munged", *options], check=True)

    def start_controller(self) -> None:
        """Start what rules over the nodes."""
        self._daemon(CONTROL, "slurmctld")

    def end_controller(self) -> None:
        """End it, once it has written down which jobs there are; they go on."""
        number = (self.folder / "slurmctld.pid").read_text().strip()
        self.hosts.run(CONTROL, ["kill", "-TERM", number], check=True)
        wait_for(lambda: int(number) not in self.hosts.processes(CONTROL))

    def start_node(self, name: str) -> None:
        """Start what takes work on a node."""
        (self.folder / f"spool-{name}").mkdir(exist_ok=True)
        self._daemon(name, "slurmd", "-N", name)

    def _daemon(self, name: str, *command: str) -> None:
        environment = {**os.environ, "SLURM_CONF": str(self.configuration)}
        self.hosts.run(name, list(command), env=environment, check=True, stdin=subprocess.DEVNULL)

    def _write_commands(self) -> None:
        """Slurm's commands, as programs that run on the control host."""
        # Jobs get the PATH that they are submitted with, and this is nothing for them.
        variables = f"SLURM_CONF={self.configuration} PATH={shlex.quote(os.environ['PATH'])}"
        self.commands.mkdir()
        for name in _COMMANDS:
            into = shlex.join(self.hosts.command(CONTROL, [str(shutil.which(name))]))
            path = self.commands / name
            path.write_text(f'#!/bin/sh\n{variables} exec {into} "$@"\n')
            path.chmod(0o755)

    @property
    def commands(self) -> Path:
        """The folder of programs that a test puts first on its PATH."""
        return self.folder / "bin"

    def asked(self, *command: str) -> str:
        """What a command of Slurm's answers."""
        return subprocess.run(
            [str(self.commands / command[0]), *command[1:]],
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def idle(self) -> set[str]:
        """The nodes that wait for work."""
        return set(self.asked("sinfo", "-h", "-N", "-t", "idle", "-o", "%n").split())

    def left(self) -> list[str]:
        """What runs on the nodes besides Slurm's daemons."""
        return [
            f"{name}: {line}"
            for name in self.hosts.names
            for line in self.hosts.processes(name).values()
            if not line.startswith("slurmd -N")
        ]

    def restart(self, name: str) -> None:
        """Have a node back that has crashed."""
        self.hosts.restart(name)
        self.start_node(name)
        wait_for(lambda: name in self.idle())


@contextmanager
def slurm_cluster(count: int, folder: Path) -> Generator[SlurmCluster]:
    """A cluster of so many nodes; skips the test where Slurm or such hosts cannot be had."""
    lacking = [program for program in _PROGRAMS if shutil.which(program) is None]
    if lacking:
        pytest.skip(f"Slurm is not installed ({', '.join(lacking)})")
    with Hosts(count) as hosts:
        cluster = SlurmCluster(hosts, folder)
        cluster.start()
        yield cluster


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.2)
