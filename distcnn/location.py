"""Where runs may be kept: in a folder, or in an object store; and how a user writes that."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeAlias

from distcnn.errors import UsageError
from distcnn.object_store import ObjectPath

Location: TypeAlias = Path | ObjectPath

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://|(s3):/", re.IGNORECASE)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}")


class LocationError(UsageError, ValueError):
    """What was written is no location."""


def location(text: str) -> Location:
    """The folder of that path, or the place `s3://bucket/prefix`.

    Raises:
        LocationError: neither is meant, or a place without a proper bucket.
    """
    scheme = _SCHEME.match(text)
    if scheme is None:
        return Path(text)
    # The text itself is not repeated: people write keys and passwords into URLs.
    if not text.startswith("s3://"):
        name = scheme[1] or scheme[2]
        what = "is written in another way" if name.lower() == "s3" else "is nothing to keep runs in"
        raise LocationError(f"{scheme[0]} {what}; name a folder, or s3://bucket/prefix")
    bucket, *parts = text.removeprefix("s3://").split("/")
    if not bucket:
        raise LocationError("s3:// lacks a bucket; write s3://bucket/prefix")
    if not _BUCKET.fullmatch(bucket):
        raise LocationError(
            "s3:// is followed by what no bucket's name (three or more of a-z, 0-9, '.', '_', '-');"
            " write s3://bucket/prefix; credentials belong into boto3's own settings"
        )
    parts = [part for part in parts if part not in ("", ".")]
    if ".." in parts:
        raise LocationError("s3:// knows no '..'; write the prefix out")
    return ObjectPath(bucket, "/".join(parts))
