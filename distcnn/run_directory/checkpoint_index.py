"""Index of a run's checkpoints, and how it is rebuilt from the checkpoint files."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

from distcnn.errors import UserError
from distcnn.files import DamagedFileError, read_json
from distcnn.location import Location

_INDEX = re.compile(r"index-(\d{6,})\.json")
_CHECKPOINT = re.compile(r"step-(\d{9,})-attempt-(\d{6,})-([0-9a-f]{16})\.safetensors")
# Earlier versions put no digest into the name, so these files cannot be verified by themselves.
_OLD_CHECKPOINT = re.compile(r"step-\d{9}-attempt-\d{6}\.safetensors")
# In the header of a safetensors file, which maps strings to strings.
_METADATA_KEY = "distcnn.checkpoint"


class CheckpointDamagedError(UserError):
    """A checkpoint's file is missing, or its content is not what was committed."""


class OldCheckpointsError(UserError):
    """Checkpoints are in the format of an earlier version."""


@dataclass(frozen=True)
class CheckpointRecord:
    """Entry of the index: a committed checkpoint."""

    file: str
    attempt: int
    epoch: int
    """Epochs finished."""
    step: int
    """Optimizer steps since the start of the run."""
    sha256: str
    """Digest of the file."""
    weights_sha256: str
    """Digest of the network's tensors, in name order."""
    val_accuracy: float | None
    """At the end of an epoch; None in the middle of one."""


class CheckpointName(NamedTuple):
    """Parts of a checkpoint's file name."""

    step: int
    attempt: int
    digest: str
    """First 64 bits of the content's SHA-256, in hexadecimal."""

    @classmethod
    def of(cls, step: int, attempt: int, sha256: str) -> Self:
        """Return the name for a content with that digest."""
        return cls(step, attempt, sha256[:16])

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Return the parts of a file name; None if it does not name a checkpoint."""
        parts = _CHECKPOINT.fullmatch(name)
        return cls(int(parts[1]), int(parts[2]), parts[3]) if parts else None

    def __str__(self) -> str:
        return f"step-{self.step:09d}-attempt-{self.attempt:06d}-{self.digest}.safetensors"


@dataclass(frozen=True)
class Index:
    """Checkpoints that an attempt keeps; by default, none, before the first attempt."""

    attempt: int = 0
    records: tuple[CheckpointRecord, ...] = ()
    """Checkpoints that are kept, oldest first."""
    unreadable: tuple[str, ...] = ()
    """Files that could not be read when the attempt began; restored, they count again."""
    replaced: tuple[str, ...] = ()
    """Files that are about to be deleted."""

    @property
    def path(self) -> str:
        """Name of the index file."""
        return f"index-{self.attempt:06d}.json"

    def encode(self) -> bytes:
        """Return the content of the index file, with a digest that reveals a change."""
        plain = asdict(self)
        return json.dumps({"sha256": _digest(plain), "index": plain}, indent=1).encode()

    @classmethod
    def read(cls, path: Location) -> Self:
        """Read an index file.

        Raises:
            DamagedFileError: it does not hold what was written.
        """
        try:
            content = read_json(path)
            plain = content["index"]
            if content["sha256"] == _digest(plain):
                records = tuple(CheckpointRecord(**entry) for entry in plain["records"])
                names = tuple(plain["unreadable"]), tuple(plain["replaced"])
                return cls(plain["attempt"], records, *names)
        except (DamagedFileError, KeyError, TypeError, FileNotFoundError, IsADirectoryError):
            pass
        raise DamagedFileError(path, "It is rebuilt from the checkpoint files")


def _digest(plain: object) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def header_metadata(**about: Any) -> dict[str, str]:
    """Return the metadata for a checkpoint's header, from which its record can be rebuilt."""
    return {_METADATA_KEY: json.dumps(about)}


def _read_header(content: bytes) -> dict[str, Any]:
    # The header of a safetensors file is JSON; the first 8 bytes give its length.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return json.loads(header["__metadata__"][_METADATA_KEY])


def is_checkpoint_or_index(name: str) -> bool:
    """Return whether a run's writer gives this name to a checkpoint or to an index."""
    return any(kind.fullmatch(name) for kind in (_CHECKPOINT, _INDEX, _OLD_CHECKPOINT))


def names_in(directory: Location) -> list[str]:
    """Return the names in a folder, sorted; none if it does not exist."""
    try:
        return sorted(path.name for path in directory.iterdir())
    except FileNotFoundError:
        return []


def latest_attempt(directory: Location) -> int:
    """Return the highest attempt that has written checkpoints or an index; 0 if none has."""
    names = names_in(directory)
    files = [parts.attempt for name in names if (parts := CheckpointName.parse(name))]
    return max([*_indexes(names), *files], default=0)


def _indexes(names: list[str]) -> dict[int, str]:
    return {int(index[1]): name for name in names if (index := _INDEX.fullmatch(name))}


@dataclass
class CheckpointFolder:
    """Content of a run's checkpoint folder."""

    index: Index
    """The newest one; empty if it is lost or damaged."""
    records: list[CheckpointRecord]
    """Committed checkpoints, oldest first."""
    unreadable: list[str]
    """Names of checkpoint files that count and cannot be read."""
    problems: list[str]
    """Damage that was not there when the index was written."""

    @classmethod
    def scan(cls, directory: Location, *, trust_index: bool = True) -> Self:
        """List the folder, read its index, and complete that by the files beside it.

        Args:
            directory: the run's `checkpoints/`.
            trust_index: False to let every file count that can be read.

        Raises:
            OldCheckpointsError: the checkpoints are in the format of an earlier version.
        """
        names = names_in(directory)
        files = {name: parts for name in names if (parts := CheckpointName.parse(name))}
        if not files and any(map(_OLD_CHECKPOINT.fullmatch, names)):
            raise OldCheckpointsError(
                f"{directory} holds checkpoints in the format of an earlier version of distcnn,"
                " which this version cannot read. Use the version that began the run, or start a"
                " new run"
            )
        folder = cls(Index(), [], [], [])
        indexes = _indexes(names)
        if indexes and trust_index:
            try:
                folder.index = Index.read(directory / indexes[max(indexes)])
            except DamagedFileError as error:
                folder.problems.append(str(error))
        folder.records = list(folder.index.records)
        if any(name.attempt > folder.index.attempt for name in files.values()):
            # The newest index is lost, and what an older one lists may have been replaced since.
            folder.records = [record for record in folder.records if record.file in files]
        folder._add_unlisted(directory, files)
        return folder

    def _add_unlisted(self, directory: Location, files: dict[str, CheckpointName]) -> None:
        """Add the files that the index should list.

        It lacks a file that was written just before a kill, or after the backup that it was
        restored from; and one that was unreadable and has been restored. A file from an attempt
        before the index is left out: its writer had lost the run. So is a restored file that is
        newer than the newest one of the run, whose rows of `metrics.csv` are gone.
        """
        listed = {record.file for record in self.index.records}
        newest = max((record.step for record in self.index.records), default=None)
        for name, parts in files.items():
            is_restored = name in self.index.unreadable and (newest is None or parts.step < newest)
            is_own = parts.attempt >= self.index.attempt and name not in self.index.replaced
            if name not in listed and (is_own or is_restored):
                try:
                    self.records.append(_read_record(directory / name, parts))
                except CheckpointDamagedError as error:
                    self.note_unreadable(name, str(error))
        # A checkpoint of a step that has been validated was committed after one that has not.
        self.records.sort(key=lambda r: (r.step, r.val_accuracy is not None, r.attempt))

    def note_unreadable(self, name: str, problem: str) -> None:
        """Record that a checkpoint cannot be read; a problem that the index knows is not new."""
        self.unreadable.append(name)
        if name not in self.index.unreadable:
            self.problems.append(problem)


def _read_record(path: Location, name: CheckpointName) -> CheckpointRecord:
    content = read_content(path)
    sha256 = hashlib.sha256(content).hexdigest()
    if not sha256.startswith(name.digest):
        raise CheckpointDamagedError(f"{path} is damaged: its SHA-256 is not that in its name")
    try:
        about = _read_header(content)
        return CheckpointRecord(file=path.name, attempt=name.attempt, sha256=sha256, **about)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointDamagedError(f"{path} is not a checkpoint of a run") from error


def read_content(path: Location) -> bytes:
    """Return a checkpoint file's content.

    Raises:
        CheckpointDamagedError: the file is missing.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise CheckpointDamagedError(f"{path} is missing") from None
