import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from distcnn.data.cache import (
    cache_directory,
    exclusive,
    format_idx,
    map_array,
    parse_idx,
    place,
    store_array,
)
from distcnn.errors import UserError

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
IDX = format_idx(IMAGES)
SHA256 = hashlib.sha256(IDX).hexdigest()

arrays = hnp.arrays(np.uint8, hnp.array_shapes(max_dims=4, max_side=5, min_side=0))


def parse(content: bytes) -> np.ndarray:
    return parse_idx(np.frombuffer(content, dtype=np.uint8))


@given(arrays)
def test_idx_round_trip(array):
    parsed = parse(format_idx(array))
    assert parsed.dtype == np.uint8
    np.testing.assert_array_equal(parsed, array)


@given(st.binary(max_size=64) | st.binary(max_size=40).map(lambda tail: b"\0\0\x08\x01" + tail))
@example(b"")
@example(b"\0\0\x08\x01\0\0\0\x02ab")
def test_bytes_are_one_array_exactly_or_refused(content):
    try:
        array = parse(content)
    except ValueError:
        return
    assert format_idx(array) == content


@given(arrays, st.data())
def test_idx_of_any_other_length_is_refused(array, data):
    content = format_idx(array)
    cut = data.draw(st.integers(0, len(content) - 1))
    for wrong in (content[:cut], content + b"\0"):
        with pytest.raises(ValueError, match=r"bytes|magic"):
            parse(wrong)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "magic number missing"),
        (b"\x1f\x8b\x08\x00" + bytes(20), "magic number 1f 8b 08 00"),
        (b"\0\0\x0d\x01\0\0\0\0", "magic number 00 00 0d 01"),  # floats
        (b"\0\0\x08\x00", "magic number 00 00 08 00"),  # no dimension
        (b"\0\0\x08\x03\0\0\0\x01", "8 bytes, less than the header's 16"),
        (IDX[:-1], r"39 bytes, but shape \(2, 3, 4\) needs 40"),
    ],
)
def test_refusal_gives_numbers(content, told):
    with pytest.raises(ValueError, match=told):
        parse(content)


def test_directory_is_the_chosen_one_or_the_platform_s(monkeypatch):
    monkeypatch.setenv("DISTCNN_CACHE_DIR", "~/elsewhere")
    assert cache_directory() == Path.home() / "elsewhere"
    monkeypatch.delenv("DISTCNN_CACHE_DIR")
    assert "distcnn" in cache_directory().parts


def test_stored_array_is_mapped_copy_on_write(tmp_path):
    with exclusive(tmp_path / "set") as scratch:
        array = store_array(scratch, tmp_path / "set" / "images", IDX, SHA256)
    np.testing.assert_array_equal(array, IMAGES)
    array[:] = 0  # writable, but on a private copy of the page
    again = map_array(tmp_path / "set" / "images", SHA256)
    assert again is not None
    np.testing.assert_array_equal(again, IMAGES)


@pytest.mark.parametrize("content", [b"", IDX[:-1], IDX[:-1] + b"\xff"])
def test_damaged_array_is_not_mapped(tmp_path, content):
    path = tmp_path / "images"
    assert map_array(path, SHA256) is None
    path.write_bytes(content)
    assert map_array(path, SHA256) is None


def test_store_refuses_what_does_not_read_back(tmp_path):
    with (
        exclusive(tmp_path) as scratch,
        pytest.raises(UserError, match=r"does not read back.*DISTCNN_CACHE_DIR"),
    ):
        store_array(scratch, tmp_path / "images", IDX, "0" * 64)


def test_scratch_of_a_killed_process_is_removed(tmp_path):
    scratch = tmp_path / f"partial-{os.uname().nodename}"
    scratch.mkdir()
    (scratch / "half").write_bytes(b"half")
    with exclusive(tmp_path) as scratch:
        assert list(scratch.iterdir()) == []
    assert not scratch.exists()


def test_scratch_is_removed_and_lock_released_on_failure(tmp_path):
    with pytest.raises(RuntimeError), exclusive(tmp_path) as scratch:
        (scratch / "half").write_bytes(b"half")
        raise RuntimeError
    assert not scratch.exists()
    with exclusive(tmp_path):
        pass


def test_folder_that_cannot_be_written_is_named_with_the_remedy(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    folder = tmp_path / "file" / "cache"
    with pytest.raises(UserError, match="DISTCNN_CACHE_DIR") as caught, exclusive(folder):
        pass
    assert str(folder) in str(caught.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full")
def test_full_disk_is_told_with_the_bytes_needed(tmp_path):
    with exclusive(tmp_path) as scratch:
        (scratch / "images").symlink_to("/dev/full")
        with pytest.raises(UserError, match=r"is full and 40 bytes are needed.*DISTCNN_CACHE_DIR"):
            place(scratch, tmp_path / "images", IDX)
    assert not (tmp_path / "images").exists()
