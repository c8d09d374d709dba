"""Writes that meet lose nothing, in a folder and in an object store."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from distcnn.files import append_line, create_exclusively, write_atomically
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
