"""What travels to a cluster: code, the job's documents, exact versions. No data."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import distcnn
from distcnn.cluster.job import Job, requirements
from distcnn.cluster.ticket import TICKET
from distcnn.config_file import shipped_configs
from distcnn.errors import UserError

# Ray's dashboard refuses more (HTTP 413).
LARGEST_BYTES = 100 * 2**20
_NUM_NAMED = 5
# What may lie about in a checkout and is nobody's code.
_LEFT_OUT_FOLDERS = {"__pycache__", "runs", "checkpoints", "tensorboard", "node_modules"}
_LEFT_OUT_SUFFIXES = {".pyc", ".gz", ".safetensors", ".pt", ".ckpt", ".npy", ".whl"}
# The same files give the same bytes, whenever they are packed.
_EPOCH = (1980, 1, 1, 0, 0, 0)


class ParcelError(UserError):
    """What would travel is too large."""


@dataclass(frozen=True)
class Parcel:
    """Files by the path that they have where they arrive, with `/` between its parts."""

    files: Mapping[str, bytes]

    @cached_property
    def zipped(self) -> bytes:
        """All of them as one ZIP file."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in sorted(self.files.items()):
                archive.writestr(zipfile.ZipInfo(name, _EPOCH), content, zipfile.ZIP_DEFLATED)
        return buffer.getvalue()

    @property
    def sha256(self) -> str:
        """Of the ZIP file."""
        return hashlib.sha256(self.zipped).hexdigest()

    def unpack(self, folder: Path) -> None:
        """Write them into a folder, which is made if need be."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def largest(self) -> list[tuple[str, int]]:
        """A few of the largest, with their bytes, the largest first."""
        sizes = [(name, len(content)) for name, content in self.files.items()]
        return sorted(sizes, key=lambda each: -each[1])[:_NUM_NAMED]

    def check_size(self, limit: int = LARGEST_BYTES) -> None:
        """Refuse what a target would not take.

        Raises:
            ParcelError: naming the largest files.
        """
        if len(self.zipped) <= limit:
            return
        named = ", ".join(f"{name} ({_mib(size)})" for name, size in self.largest())
        raise ParcelError(
            f"{_mib(len(self.zipped))} would have to travel, and {_mib(limit)} may; the largest"
            f" files are {named}. Move away from {Path(distcnn.__file__).parent} what is no code"
        )


def parcel_of(job: Job) -> Parcel:
    """All that a driver of this job needs, besides libraries and data."""
    documents = {name: text.encode() for name, text in job.documents.items()}
    return Parcel(
        {
            **(dict(_users_files(job.workload)) if job.workload else {}),
            **dict(_package_files()),
            **documents,
            TICKET: job.ticket.to_json().encode(),
            "requirements.txt": requirements().encode(),
        }
    )


def _users_files(name: str) -> Iterator[tuple[str, bytes]]:
    """The module that a workload's factory is in, or else the whole package of it.

    Not what is installed, which has to be installed there as well.
    """
    top = Path(name.partition(":")[0].partition(".")[0])
    module = top.with_suffix(".py")
    if module.is_file() and not _is_package(top):  # As Python would take it.
        yield module.name, module.read_bytes()
    elif top.is_dir():
        for path in _files_in(top):
            yield path.as_posix(), path.read_bytes()


def _package_files() -> Iterator[tuple[str, bytes]]:
    package = Path(distcnn.__file__).parent
    for path in _files_in(package):
        yield f"distcnn/{path.relative_to(package).as_posix()}", path.read_bytes()
    configs = shipped_configs()  # In a checkout they lie beside the package.
    for path in _files_in(configs):
        yield f"distcnn/configs/{path.relative_to(configs).as_posix()}", path.read_bytes()


def _files_in(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix in _LEFT_OUT_SUFFIXES:
            continue
        if path.is_dir():
            if path.name not in _LEFT_OUT_FOLDERS or _is_package(path):
                yield from _files_in(path)
        elif path.is_file():
            yield path


def _is_package(folder: Path) -> bool:
    return (folder / "__init__.py").is_file()


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f} MiB"
