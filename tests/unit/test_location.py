"""What a user writes is a folder or a place in an object store, or else named as a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from distcnn.location import LocationError, location
from distcnn.object_store import ObjectPath


@pytest.mark.parametrize("text", ["runs", "/tmp/runs", "./a:b", "s3", "~/runs", "a/s3://b"])
def test_a_path_is_a_folder(text: str) -> None:
    assert location(text) == Path(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://b-1.x", ObjectPath("b-1.x", "")),
        ("s3://bucket/", ObjectPath("bucket", "")),
        ("s3://bucket/a/b", ObjectPath("bucket", "a/b")),
        ("s3://bucket//a/./b/", ObjectPath("bucket", "a/b")),
    ],
)
def test_an_s3_url_is_a_place(text: str, expected: ObjectPath) -> None:
    assert location(text) == expected
    assert location(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s3://", "lacks a bucket"),
        ("s3:///prefix", "lacks a bucket"),
        ("s3:/bucket/x", "s3:/ is written in another way"),
        ("S3://bucket/x", "s3://bucket/prefix"),
        ("gs://bucket/x", "gs:// is nothing to keep runs in"),
        ("https://bucket.s3.amazonaws.com/x", "https:// is nothing to keep runs in"),
        ("s3://bucket/../x", r"knows no '\.\.'"),
        ("s3://b u/x", "no bucket's name"),
    ],
)
def test_a_mistake_is_told_with_what_to_write(text: str, said: str) -> None:
    with pytest.raises(LocationError, match=said):
        location(text)


def test_a_secret_in_a_url_is_not_repeated() -> None:
    with pytest.raises(LocationError) as error:
        location("s3://key:hidden@bucket/x")
    assert "hidden" not in str(error.value)
    assert "boto3's own settings" in str(error.value)
