"""Writes that meet lose nothing, in a folder and in an object store."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from distcnn.files import (
    NotARegularFileError,
    append_line,
    create_exclusively,
    write_atomically,
)
from distcnn.growing_file import start_growing
from distcnn.location import Location
from distcnn.object_store import ObjectPath
from tests.s3_server import S3Server

APPEND = """
import sys
from distcnn.files import append_line
from distcnn.location import location
for number in range(int(sys.argv[3])):
    append_line(location(sys.argv[1]), f"{sys.argv[2]} {number}".encode())
"""


def test_of_many_creators_exactly_one_wins(place: Location) -> None:
    path = place / "claim"
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: create_exclusively(path, b"%d" % n), range(40)))
    assert won.count(True) == 1
    assert path.read_bytes() == b"%d" % won.index(True)


def test_of_many_appenders_none_loses_a_line(place: Location) -> None:
    path = place / "events.jsonl"
    processes = [
        subprocess.Popen([sys.executable, "-c", APPEND, str(path), name, "15"]) for name in "abcd"
    ]
    assert [process.wait() for process in processes] == [0] * 4
    lines = path.read_text(encoding="utf-8").splitlines()
    assert sorted(lines) == sorted(f"{name} {number}" for name in "abcd" for number in range(15))
    for name in "abcd":
        own = [line for line in lines if line.startswith(name)]
        assert own == [f"{name} {number}" for number in range(15)], "in its own order"


def test_a_line_whose_answer_was_lost_is_told_once(bucket: ObjectPath, s3_server: S3Server) -> None:
    path = bucket / "events.jsonl"
    append_line(path, b"first")
    s3_server.faults.append("answer lost")
    append_line(path, b"second")
    assert path.read_bytes() == b"first\nsecond\n"


def test_a_torn_line_does_not_spoil_the_next(place: Location) -> None:
    path = place / "events.jsonl"
    write_atomically(path, b"whole\nto")
    append_line(path, b"next")
    assert path.read_bytes() == b"whole\nto\nnext\n"


def test_what_grows_is_there_after_each_sync(place: Location) -> None:
    path = place / "metrics.csv"
    growing = start_growing(path, b"a\n")
    assert path.read_bytes() == b"a\n"
    growing.append(b"b\n")
    growing.sync()
    assert path.read_bytes() == b"a\nb\n"
    growing.append(b"c\n")
    growing.close()
    assert path.read_bytes() == b"a\nb\nc\n"


# A user may name any path: what is there is replaced only if it is a regular file.


def _make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


OTHER_KINDS: dict[str, Callable[[Path], None]] = {
    "a directory": Path.mkdir,
    "a FIFO": os.mkfifo,
    "a socket": _make_socket,
    "a character device": lambda path: os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3)),
    "a block device": lambda path: os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(7, 99)),
    "a loop of symbolic links": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("through_a_link", [False, True])
@pytest.mark.parametrize("write", [write_atomically, append_line])
@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_only_a_regular_file_is_replaced(
    kind: str,
    write: Callable[[Path, bytes], None],
    through_a_link: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # The path of a socket must be short.
    there, named = Path("there"), Path("link" if through_a_link else "there")
    try:
        OTHER_KINDS[kind](there)
    except PermissionError:
        pytest.skip("making a device needs root")
    if through_a_link:
        named.symlink_to(there)
    before = there.lstat()
    with pytest.raises(NotARegularFileError, match=f"cannot write {named}: it is {kind}"):
        write(named, b"content")
    after = there.lstat()
    assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino)
    assert {path.name for path in tmp_path.iterdir()} == {"there", named.name}


def test_a_device_that_comes_in_between_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"

    def sync(descriptor: int) -> None:
        os.mkfifo(path)

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(NotARegularFileError):
        write_atomically(path, b"content")
    assert stat.S_ISFIFO(path.lstat().st_mode)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_stays_and_its_file_is_written(exists: bool, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    file, link = tmp_path / "elsewhere" / "file", tmp_path / "link"
    if exists:
        file.write_bytes(b"before")
    link.symlink_to("elsewhere/file")
    write_atomically(link, b"content")
    assert link.is_symlink()
    assert file.read_bytes() == b"content"
    append_line(link, b"more")
    assert file.read_bytes() == b"content\nmore\n"
    assert [path.name for path in file.parent.iterdir()] == ["file"]


def test_another_name_of_the_same_file_keeps_its_content(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"before")
    other.hardlink_to(one)
    write_atomically(one, b"content")
    assert (one.read_bytes(), other.read_bytes()) == (b"content", b"before")


def test_the_old_file_stays_until_the_new_one_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def disk_is_full(descriptor: int) -> None:
        assert path.read_bytes() == b"before"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"content")
    assert path.read_bytes() == b"before"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
