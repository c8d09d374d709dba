"""What ran, on what: versions, revision, command, hardware, data."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Self

import psutil
import torch

from distcnn import config_file
from distcnn.config import RunConfig
from distcnn.data.dataset import Dataset, class_names
from distcnn.errors import UserError
from distcnn.run_directory.run import RunDirectory

_PACKAGES = ("distcnn", "ray", "torch", "pytorch-lightning", "torchmetrics", "numpy")

# What decides, besides the config, which kernels run and how they cut their work.
_KIND = ("cpu", "instruction_set", "further_instructions", "l2_cache_kib", "gpu", "torch")
_FURTHER_INSTRUCTIONS = ("avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16")

Launcher = Literal["local", "ray", "sweep"]


@dataclass(frozen=True)
class Ground:
    """What a run stands on, besides its config: the same ground gives the same bits."""

    data_name: str
    data_sha256: str
    hardware: dict[str, Any]
    """Of the machine of the first worker, as `hardware` has it."""

    @classmethod
    def here(cls, config: RunConfig, dataset: Dataset) -> Self:
        """This machine, with this data."""
        return cls(dataset.name, dataset.sha256, hardware(config))

    @property
    def data(self) -> dict[str, Any]:
        """The data, as the documents of a run name it."""
        return {
            "name": self.data_name,
            "sha256": self.data_sha256,
            "class_names": class_names(self.data_name),
        }


def collect(config: RunConfig, ground: Ground, launcher: Launcher) -> dict[str, Any]:
    """Everything a reader needs to judge, or to repeat, the run that is about to start."""
    return {
        "launcher": launcher,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "directory": str(Path.cwd()),
        "git": _git_revision(),
        "versions": versions(),
        "hardware": ground.hardware,
        "config_sha256": config_sha256(config),
        "data": ground.data,
    }


def check_same_ground(
    run: RunDirectory, config: RunConfig, ground: Ground, notify: Callable[[str], None]
) -> None:
    """Make sure that a run goes on as it began; say where a machine may give other last bits.

    Raises:
        UserError: the config or the data are others.
    """
    before = run.read_provenance()
    if before is None:
        unknown = (
            f"{run.path} has no provenance.json: whether its config, its data and this machine are"
            " those it began with cannot be told"
        )
        if config.training.is_same_on_any_workers:
            raise UserError(
                f"{unknown}, which training.reproducible=across-workers promises; begin a new run"
            )
        notify(unknown)
        return
    if config_sha256(config) != before["config_sha256"]:
        again = config_file.command(config, run.config_path)
        if before["launcher"] == "sweep":
            again = f"distcnn tune {run.path / 'sweep.yaml'}"
        raise UserError(
            f"the config in {run.path} is not what it began with; half of a run under another"
            f" config would be neither. Start a new one with it: {again}"
        )
    if ground.data_sha256 != before["data"]["sha256"]:
        raise UserError(
            f"{run.path} was trained on other data ({before['data']['name']},"
            f" {before['data']['sha256'][:12]}...) than is found here"
            f" ({ground.data_name}, {ground.data_sha256[:12]}...);"
            " set DISTCNN_DATA_DIR to the data it began with"
        )
    began_on = before["hardware"] | before["versions"]
    if config.training.is_same_on_any_workers:
        check_same_kind(began_on, ground.hardware)
    for part, then, now in _other_parts(began_on, ground.hardware):
        notify(
            f"This run began on another {part} ({then}, here {now}):"
            " it goes on, but its last bits may differ from those of an undisturbed run"
        )


def check_same_kind(began_on: Mapping[str, Any], hardware: Mapping[str, Any]) -> None:
    """Make sure that a worker computes as the one that a run began on, to the last bit.

    Args:
        began_on: that one's hardware, and its versions as far as they are known.
        hardware: of the worker, which this is.

    Raises:
        UserError: the worker's device or its torch is of another kind.
    """
    others = list(_other_parts(began_on, hardware))
    if others:
        what = ", ".join(f"{part} {then}, there {now}" for part, then, now in others)
        raise UserError(
            f"{hardware['host']} is of another kind than what this run began on ({what}), and would"
            " give other last bits, which training.reproducible=across-workers rules out; run it"
            " on the same kind (workers.accelerator_type, workers.label_selector), or begin a run"
            " there"
        )


def kind(hardware: Mapping[str, Any]) -> str:
    """What of some hardware decides the last bits of a result, for people."""
    return ", ".join(str(hardware[part]) for part in _KIND if hardware.get(part))


def _other_parts(
    began_on: Mapping[str, Any], hardware: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    """What may change the last bits: its name, as it was and as it is."""
    now = {**hardware, **versions()}
    for part in _KIND:
        if now[part] != began_on.get(part, now[part]):
            yield part, began_on[part], now[part]


def versions() -> dict[str, str]:
    """Of Python and of the packages that bear on a result."""
    packages = {package: version(package) for package in _PACKAGES}
    return {"python": platform.python_version(), **packages}


def config_sha256(config: RunConfig) -> str:
    """Identifies what decides the result of a resolved config."""
    return hashlib.sha256(json.dumps(config.identity, sort_keys=True).encode()).hexdigest()


def hardware(config: RunConfig) -> dict[str, Any]:
    """The part of this machine that bears on speed and on the last bits of a result."""
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "cpu": cpu_name(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "further_instructions": further_instructions(),
        "l2_cache_kib": torch.cpu.get_capabilities().get("l2_cache_size", 0) // 1024,
        "cores": os.cpu_count(),
        "threads": config.workers.threads,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name(0) if config.workers.gpus else None,
    }


def cpu_name() -> str:
    """The CPU as its maker calls it."""
    return str(torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or "unknown")


def further_instructions() -> str:
    """The vector instructions of this CPU among which kernels choose besides: `amx_bf16 ...`."""
    capabilities = torch.cpu.get_capabilities()
    return " ".join(name for name in _FURTHER_INSTRUCTIONS if capabilities.get(name))


def _git_revision() -> dict[str, Any] | None:
    """The revision of the checkout that this package runs from; None where it is none."""
    package = Path(__file__).parents[1]

    def git(*arguments: str) -> str | None:
        try:
            command = ["git", "-C", str(package), *arguments]
            return subprocess.run(  # noqa: S603 - fixed words
                command, capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None

    revision = git("rev-parse", "HEAD")
    if revision is None or git("ls-files", "--error-unmatch", str(package / "__init__.py")) is None:
        return None
    return {"revision": revision, "modified": bool(git("status", "--porcelain", "-uno"))}
