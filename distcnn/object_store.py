"""A place in an S3-compatible object store, with the part of pathlib's interface that runs use."""

from __future__ import annotations

import errno
import os
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Self

from distcnn.s3_client import ObjectStoreError, code_of, connected, was_sent_again

_NUM_READS = 3
_NUM_CONFLICTS = 20
_LONGEST_BACK_OFF_SECONDS = 0.2

_MISSING = {"NoSuchKey", "404"}
_CONDITION_FAILED = {"PreconditionFailed", "412"}
_CONFLICT = {"ConditionalRequestConflict", "OperationAborted", "409"}


@dataclass(frozen=True)
class ObjectStat:
    """What is known of an object without reading it."""

    st_mtime: float
    """When it was last written, in seconds since 1970, by the store's clock."""


@dataclass(frozen=True, order=True)
class ObjectPath:
    """An object, or a folder: all objects whose keys begin with its own and a slash.

    Whatever asks the store may raise an `ObjectStoreError`.
    """

    bucket: str
    key: str
    """Without slashes at its ends; empty for the bucket itself."""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}".rstrip("/")

    def __truediv__(self, name: str) -> Self:
        return type(self)(self.bucket, f"{self._prefix}{name}")

    @property
    def _prefix(self) -> str:
        """What the keys of all in this folder begin with."""
        return f"{self.key}/" if self.key else ""

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> Self:
        """The folder it is in; a bucket is its own."""
        return type(self)(self.bucket, self.key.rpartition("/")[0])

    def with_name(self, name: str) -> Self:
        """The one of that name in the same folder."""
        return self.parent / name

    def absolute(self) -> Self:
        """Itself: it means the same wherever the process stands."""
        return self

    def exists(self) -> bool:
        """Whether it is an object or a folder."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Whether there is an object of that very key."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether anything is in it; a bucket that is there is a folder in any case."""
        page = self._list(self._prefix, MaxKeys=1)
        return not self.key or page["KeyCount"] > 0

    def stat(self) -> ObjectStat:
        """What is known of the object.

        Raises:
            FileNotFoundError: there is none.
        """
        # A HEAD would do, but its errors have no body: a missing bucket looks like a missing key.
        for entry in self._list(self.key, MaxKeys=1).get("Contents", []):
            if entry["Key"] == self.key:
                return ObjectStat(entry["LastModified"].timestamp())
        raise self._missing()

    def iterdir(self) -> Iterator[Self]:
        """The objects and folders in this folder."""
        return self.glob("*")

    def glob(self, pattern: str) -> Iterator[Self]:
        """Those in this folder whose names match; no deeper."""
        fixed = re.split(r"[*?[]", pattern, maxsplit=1)[0]
        more: dict[str, str] = {}
        while True:
            page = self._list(f"{self._prefix}{fixed}", Delimiter="/", **more)
            keys = [entry["Key"] for entry in page.get("Contents", [])]
            keys += [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]
            for key in keys:
                name = key.removeprefix(self._prefix).rstrip("/")
                if name and fnmatchcase(name, pattern):  # The folder's own mark has no name.
                    yield self / name
            if not page["IsTruncated"]:
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _list(self, prefix: str, **options: Any) -> dict[str, Any]:
        with connected(self) as s3:
            return s3.list_objects_v2(Bucket=self.bucket, Prefix=prefix, **options)

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Put the folder's mark, an empty object of its key and a slash: of many, one can.

        A folder needs no mark to hold something. But this is where a run begins, and so where a
        store is found out that does not keep what leases are built on.

        Args:
            parents: has no meaning here; as pathlib has it.
            exist_ok: whether it may be there already.

        Raises:
            FileExistsError: it is there already.
        """
        if not self.key:
            return
        if not exist_ok and self.is_dir():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self))
        mark = type(self)(self.bucket, self._prefix)
        is_made = mark.put_if(b"", version=None) is not None
        if is_made and mark.put_if(b"", version=None) is not None:
            raise ObjectStoreError(
                f"{self}: the store passes over If-None-Match, so that two processes could write to"
                " one run; keep runs in a folder, or in a store with conditional writes"
            )
        if not is_made and not exist_ok:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self))

    def rmdir(self) -> None:
        """Remove the folder's mark: what is in it has been removed before."""
        type(self)(self.bucket, self._prefix).unlink(missing_ok=True)

    def read_bytes(self) -> bytes:
        """The object's content.

        Raises:
            FileNotFoundError: there is none.
        """
        content, version = self.read_versioned()
        if version is None:
            raise self._missing()
        return content

    def read_text(self, encoding: str) -> str:
        """The object's content as text.

        Raises:
            FileNotFoundError: there is none.
        """
        return self.read_bytes().decode(encoding)

    def read_versioned(self) -> tuple[bytes, str | None]:
        """The content, and its version for `put_if`; nothing and None where there is no object."""
        with connected(self) as s3:
            from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError

            num_reads_left = _NUM_READS
            while True:
                num_reads_left -= 1
                try:
                    answer = s3.get_object(Bucket=self.bucket, Key=self.key)
                    return answer["Body"].read(), answer["ETag"]
                except ClientError as error:
                    if code_of(error) not in _MISSING:
                        raise
                    return b"", None
                except (HTTPClientError, IncompleteReadError):
                    # botocore itself asks again for the headers alone, not where a body breaks off.
                    if not num_reads_left:
                        raise

    def put(self, content: bytes) -> str:
        """Replace the whole object in one step; its new version."""
        with connected(self) as s3:
            return s3.put_object(Bucket=self.bucket, Key=self.key, Body=content)["ETag"]

    def put_if(self, content: bytes, version: str | None) -> str | None:
        """Replace the object only if it still has that version (None: if there is no object).

        Returns:
            Its new version; None where it has another one, and nothing was done.
        """
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        with connected(self) as s3:
            from botocore.exceptions import ClientError

            num_tries_left = _NUM_CONFLICTS
            while True:
                num_tries_left -= 1
                try:
                    answer = s3.put_object(
                        Bucket=self.bucket, Key=self.key, Body=content, **condition
                    )
                    return answer["ETag"]
                except ClientError as error:
                    code = code_of(error)
                    if code in _CONDITION_FAILED | _MISSING:
                        may_be_ours = was_sent_again(error)
                        return self._version_beginning_with(content) if may_be_ours else None
                    if code not in _CONFLICT or not num_tries_left:
                        raise
                back_off()

    def _version_beginning_with(self, content: bytes) -> str | None:
        """Tells whether a put has taken place whose answer was lost, and which then came second.

        Others may have appended to it since.
        """
        now, version = self.read_versioned()
        return version if content and now.startswith(content) else None

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object.

        Raises:
            FileNotFoundError: there is none.
        """
        if not missing_ok:
            self.stat()
        with connected(self) as s3:
            s3.delete_object(Bucket=self.bucket, Key=self.key)

    def _missing(self) -> FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))


def back_off() -> None:
    """Let others who write to the same object go first, at random."""
    time.sleep(random.uniform(0, _LONGEST_BACK_OFF_SECONDS))  # noqa: S311 - no secret
