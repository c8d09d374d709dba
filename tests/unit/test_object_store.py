"""Objects behave as the files of a run do, and writes that meet are decided by the store."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from distcnn import object_store, s3_client
from distcnn.errors import UsageError
from distcnn.location import Location
from distcnn.object_store import ObjectPath
from distcnn.s3_client import ObjectStoreError
from tests.s3_server import S3Server


def test_names_are_made_as_by_pathlib() -> None:
    run = ObjectPath("b", "prefix") / "run"
    assert str(run) == "s3://b/prefix/run"
    assert (run.name, str(run.parent), str(run.parent.parent)) == (
        "run",
        "s3://b/prefix",
        "s3://b",
    )
    assert run.with_name("other") == run.parent / "other"
    assert len({run, run.parent / "run"}) == 1


def test_what_is_put_is_there_and_what_is_removed_is_not(bucket: ObjectPath) -> None:
    path = bucket / "a" / "b.txt"
    assert not path.exists()
    with pytest.raises(FileNotFoundError, match=r"b\.txt"):
        path.read_bytes()
    with pytest.raises(FileNotFoundError):
        path.unlink()
    path.unlink(missing_ok=True)
    path.put("ä".encode())
    assert path.read_text(encoding="utf-8") == "ä"
    assert path.is_file()
    assert not path.is_dir()
    assert path.parent.is_dir()
    assert not path.parent.is_file()
    assert not (bucket / "a" / "b").exists(), "the beginning of a name is not the name"
    assert path.stat().st_mtime > 1e9
    path.unlink()
    assert not path.exists()
    assert bucket.is_dir(), "an empty bucket"


@pytest.mark.parametrize("pattern", ["*", "index-*.json", "a[1]*", "?*.json"])
def test_a_folder_lists_what_a_folder_of_files_would(
    bucket: ObjectPath, tmp_path: Path, pattern: str
) -> None:
    (tmp_path / "run").mkdir()
    (bucket / "run").mkdir()
    for name in ("index-2.json", "index-1.json", "a[1]b", "sub/inner.json", "sub/deep/x.json"):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).touch()
        (bucket / "run" / name).put(b"")
    (bucket / "run-2").put(b"")
    assert [path.name for path in (bucket / "run").glob(pattern)] == sorted(
        path.name for path in (tmp_path / "run").glob(pattern)
    )
    assert [str(path) for path in bucket.iterdir()] == [f"{bucket}/run-2", f"{bucket}/run"]


def test_a_long_listing_is_whole(bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        (bucket / "run" / f"step-{number}").put(b"")
    original = ObjectPath._list
    monkeypatch.setattr(
        ObjectPath, "_list", lambda *args, **options: original(*args, **options, MaxKeys=3)
    )
    names = [path.name for path in (bucket / "run").glob("step-*")]
    assert names == [f"step-{number}" for number in range(7)]


def test_a_folder_is_made_once(place: Location) -> None:
    folder = place / "run"
    folder.mkdir()
    assert folder.is_dir()
    assert list(folder.iterdir()) == []
    with pytest.raises(FileExistsError):
        folder.mkdir()
    folder.mkdir(exist_ok=True)
    folder.rmdir()
    assert not folder.exists()


def test_of_many_at_once_one_makes_the_folder(bucket: ObjectPath) -> None:
    def make(_: int) -> bool:
        try:
            (bucket / "run").mkdir()
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(make, range(24))) == 1


def test_a_version_is_replaced_once(bucket: ObjectPath) -> None:
    path = bucket / "x"
    assert path.read_versioned() == (b"", None)
    first = path.put_if(b"1", version=None)
    assert first is not None
    assert path.put_if(b"other", version=None) is None
    second = path.put_if(b"2", first)
    assert path.read_versioned() == (b"2", second)
    assert path.put_if(b"other", first) is None
    path.unlink()
    assert path.put_if(b"other", second) is None
    assert not path.exists()


@pytest.mark.parametrize("version_is_known", [False, True])
def test_a_put_whose_answer_was_lost_is_known_to_be_ours(
    bucket: ObjectPath, s3_server: S3Server, version_is_known: bool
) -> None:
    """The client sends it again, and is told that somebody else was first."""
    path = bucket / "x"
    version = path.put(b"before") if version_is_known else None
    s3_server.faults.append("answer lost")
    assert path.put_if(b"ours", version) == path.read_versioned()[1]
    assert path.read_bytes() == b"ours"


def test_a_put_that_came_second_is_not_taken_for_ours(
    bucket: ObjectPath, s3_server: S3Server
) -> None:
    path = bucket / "x"
    path.put(b"theirs")
    s3_server.faults.append("answer lost")
    assert path.put_if(b"ours", version=None) is None
    assert path.read_bytes() == b"theirs"


def test_a_conflict_is_tried_again(bucket: ObjectPath, s3_server: S3Server) -> None:
    s3_server.faults += ["conflict", "conflict"]
    assert (bucket / "x").put_if(b"ours", version=None) is not None


def test_conflicts_without_end_are_told(
    bucket: ObjectPath, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "_NUM_CONFLICTS", 2)
    s3_server.faults += ["conflict", "conflict"]
    with pytest.raises(ObjectStoreError, match="ConditionalRequestConflict"):
        (bucket / "x").put_if(b"ours", version=None)


def test_a_store_that_passes_over_conditions_is_refused(
    bucket: ObjectPath, s3_server: S3Server
) -> None:
    s3_server.faults += ["condition passed over"] * 2
    with pytest.raises(ObjectStoreError, match="two processes could write to one run"):
        (bucket / "run").mkdir()


def test_a_store_that_fails_now_and_then_is_asked_again(
    bucket: ObjectPath, s3_server: S3Server
) -> None:
    s3_server.faults += ["answer lost"]
    (bucket / "x").put(b"content")
    assert (bucket / "x").read_bytes() == b"content"


@pytest.fixture
def reconnected(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch):
    """Sets the environment for a client of the test's own."""
    s3_client._client.cache_clear()

    def reconnected(name: str, value: str | None) -> None:
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)

    yield reconnected
    s3_client._client.cache_clear()


ASKING: list[Callable[[ObjectPath], object]] = [
    ObjectPath.exists,
    ObjectPath.read_bytes,
    ObjectPath.mkdir,
    lambda path: path.put(b""),
    lambda path: list(path.iterdir()),
]


@pytest.mark.parametrize("ask", ASKING)
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AWS_ACCESS_KEY_ID", "another-key", "the credentials are refused"),
        ("AWS_ACCESS_KEY_ID", None, "set AWS_PROFILE"),
        ("AWS_PROFILE", "nobody", "set AWS_PROFILE"),
        ("AWS_ENDPOINT_URL", "nonsense", "mend AWS_ENDPOINT_URL"),
        ("AWS_ENDPOINT_URL", "http://user:hidden@127.0.0.1:9", "check the network and AWS_END"),
    ],
)
def test_a_wrong_setting_is_named_with_its_remedy(
    bucket: ObjectPath,
    reconnected: Callable[[str, str | None], None],
    monkeypatch: pytest.MonkeyPatch,
    ask: Callable[[ObjectPath], object],
    name: str,
    value: str | None,
    said: str,
) -> None:
    monkeypatch.setattr(s3_client, "_NUM_TRIES", 1)
    reconnected(name, value)
    with pytest.raises(ObjectStoreError) as error:
        ask(bucket / "run")
    assert said in str(error.value)
    assert str(bucket / "run") in str(error.value)
    for secret in ("another-key", "a-secret-of-the-tests", "hidden"):
        assert secret not in str(error.value)


@pytest.mark.parametrize("ask", ASKING)
def test_a_missing_bucket_is_named(
    s3_server: S3Server, ask: Callable[[ObjectPath], object]
) -> None:
    with pytest.raises(ObjectStoreError, match=r"s3://nowhere/run: there is no such bucket at 127"):
        ask(ObjectPath("nowhere", "run"))


def test_a_denied_write_names_what_is_to_be_granted(
    bucket: ObjectPath, s3_server: S3Server
) -> None:
    s3_server.faults.append("denied")
    with pytest.raises(ObjectStoreError, match=r"access denied to PutObject.*s3:PutObject"):
        (bucket / "x").put(b"")


def test_an_error_comes_whole_out_of_a_worker() -> None:
    error = pickle.loads(pickle.dumps(ObjectStoreError("s3://b/x: what")))
    assert (str(error), error.errno) == ("s3://b/x: what", errno.EIO)


def test_a_missing_boto3_comes_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'distcnn\[s3\]'"):
        ObjectPath("b", "x").exists()
