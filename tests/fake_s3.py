"""A fake of an S3 client that keeps objects in a dict: a store whose every state can be looked at.

`tests.s3_server` is the one with HTTP between; this one is for tests that stop at each operation.
"""

# ruff: noqa: N803 - these are the names of boto3's parameters.

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

from botocore.exceptions import ClientError

Objects = dict[tuple[str, str], bytes]


class FakeS3:
    """The four operations that distcnn uses, with conditional puts."""

    def __init__(self, before_change: Callable[[Objects], None] = lambda objects: None) -> None:
        self.objects: Objects = {}
        self._before_change = before_change

    @contextmanager
    def connected(self, place: object) -> Generator[FakeS3]:
        """Stand in for `distcnn.s3_client.connected`."""
        yield self

    def list_objects_v2(
        self, Bucket: str, Prefix: str, Delimiter: str = "", MaxKeys: int = 1000
    ) -> dict[str, Any]:
        keys = sorted(key for bucket, key in self.objects if bucket == Bucket)
        found = [key for key in keys if key.startswith(Prefix)]
        names, folders = [], []
        for key in found:
            head, delimiter, _ = key.removeprefix(Prefix).partition(Delimiter or "\0")
            (folders if delimiter else names).append(Prefix + head + delimiter)
        entries = [{"Key": key, "LastModified": datetime.now(UTC)} for key in names[:MaxKeys]]
        prefixes = [{"Prefix": prefix} for prefix in dict.fromkeys(folders)]
        return {
            "Contents": entries,
            "CommonPrefixes": prefixes,
            "KeyCount": len(entries) + len(prefixes),
            "IsTruncated": False,
        }

    def get_object(self, Bucket: str, Key: str) -> dict[str, Any]:
        content = self.objects.get((Bucket, Key))
        if content is None:
            raise _error("NoSuchKey")
        return {"Body": BytesIO(content), "ETag": _etag(content)}

    def put_object(
        self, Bucket: str, Key: str, Body: bytes, IfMatch: str = "", IfNoneMatch: str = ""
    ) -> dict[str, Any]:
        old = self.objects.get((Bucket, Key))
        if (IfNoneMatch and old is not None) or (
            IfMatch and (old is None or IfMatch != _etag(old))
        ):
            raise _error("PreconditionFailed")
        self._before_change(self.objects)
        self.objects[Bucket, Key] = bytes(Body)
        return {"ETag": _etag(Body)}

    def delete_object(self, Bucket: str, Key: str) -> None:
        self._before_change(self.objects)
        self.objects.pop((Bucket, Key), None)


def _etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}}, "operation")
