"""The connection to an S3-compatible object store, and what its errors mean to a user."""

from __future__ import annotations

import errno
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any, Self
from urllib.parse import urlsplit

from distcnn.errors import UsageError, UserError

# A lease's heartbeat that hangs for so long, and is sent again, still comes in time.
_CONNECT_TIMEOUT_SECONDS = 5
_READ_TIMEOUT_SECONDS = 10
# Some 3 s of back-off in all, or 30 s with a botocore before 2026.
_NUM_TRIES = 8

_DENIED = {"AccessDenied", "AllAccessDisabled", "403"}
_CREDENTIALS_REFUSED = {
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
_NOT_IMPLEMENTED = {"NotImplemented", "501"}
_CREDENTIALS_REMEDY = (
    "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or sign in anew"
)


class ObjectStoreError(UserError, OSError):
    """The store did not do what it was asked; the message says how that is mended.

    Of both kinds: who can do without a write (a heartbeat, say) passes over it as over the failure
    of a disk; from everybody else it reaches the user as it is.
    """

    def __init__(self, message: str) -> None:
        super().__init__(errno.EIO, message)

    def __str__(self) -> str:
        return str(self.strerror)

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        """So that a worker's error reaches the user from another process."""
        return type(self), (str(self),)


@contextmanager
def connected(place: object) -> Generator[Any]:
    """boto3's client, with its errors turned into ones that name the place and the remedy.

    Raises:
        ObjectStoreError: the store cannot be reached or does not do what it is asked.
        UsageError: boto3 is not installed.
    """
    if find_spec("boto3") is None:
        raise UsageError(
            f"{place}: boto3, which s3:// needs, is not installed: pip install 'distcnn[s3]'"
        )
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield _client()
    except ClientError as error:
        raise ObjectStoreError(f"{place}: {_explain_answer(error)}") from error
    except BotoCoreError as error:
        raise ObjectStoreError(f"{place}: {_explain_failure(error)}") from error
    except _EndpointError as error:
        raise ObjectStoreError(f"{place}: {error}; mend AWS_ENDPOINT_URL") from error


class _EndpointError(Exception):
    """The endpoint is no URL."""


@cache
def _client() -> Any:
    """The one client of this process; where and who come from boto3's own settings."""
    from boto3.session import Session
    from botocore.config import Config

    settings = Config(
        connect_timeout=_CONNECT_TIMEOUT_SECONDS,
        read_timeout=_READ_TIMEOUT_SECONDS,
        retries={"mode": "standard", "total_max_attempts": _NUM_TRIES},
    )
    # A session of our own: boto3's default one is not to be shared by threads.
    try:
        return Session().client("s3", config=settings)
    except ValueError as error:
        raise _EndpointError(error) from error


def code_of(error: Any) -> str:
    """What the store calls an error of botocore's class `ClientError`."""
    return str(error.response.get("Error", {}).get("Code", ""))


def was_sent_again(error: Any) -> bool:
    """Whether an earlier try of the same request has failed: it may have been carried out."""
    return error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0) > 0


def _explain_answer(error: Any) -> str:
    """What an error that the store has answered with means."""
    code = code_of(error)
    if code == "NoSuchBucket":
        return f"there is no such bucket at {_host()}; make it, or mend its name"
    if code in _DENIED:
        return (
            f"access denied to {error.operation_name}; have s3:ListBucket granted on the bucket,"
            " and s3:GetObject, s3:PutObject and s3:DeleteObject on what is in it"
        )
    if code in _CREDENTIALS_REFUSED:
        return f"the credentials are refused ({code}); {_CREDENTIALS_REMEDY}"
    if code in _NOT_IMPLEMENTED:
        return (
            f"{_host()} does not know what {error.operation_name} asks of it; a run needs a store"
            " with conditional writes (If-None-Match)"
        )
    message = error.response.get("Error", {}).get("Message", "")
    return f"{_host()} answered {error.operation_name} with {code}: {message}; mend that"


def _explain_failure(error: Exception) -> str:
    """What an error without an answer of the store means."""
    from botocore import exceptions

    if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError):
        what = type(error).__name__
        return f"{_host()} cannot be reached ({what}); check the network and AWS_ENDPOINT_URL"
    if isinstance(
        error,
        exceptions.NoCredentialsError
        | exceptions.PartialCredentialsError
        | exceptions.CredentialRetrievalError
        | exceptions.ProfileNotFound
        | exceptions.SSOError,
    ):
        return f"no credentials ({error}); {_CREDENTIALS_REMEDY}"
    return f"{error}; mend boto3's settings (AWS_* in the environment, ~/.aws/config)"


def _host() -> str:
    """Where the client sends to, without what a URL may hold of credentials."""
    url = urlsplit(_client().meta.endpoint_url)
    return f"{url.hostname}:{url.port}" if url.port else str(url.hostname)
