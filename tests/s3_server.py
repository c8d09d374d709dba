"""An S3 server over HTTP on a free loopback port: moto's, with what a lease relies on made strict.

moto compares If-Match and If-None-Match, but between that and the write another thread may come
first; S3 does both in one step, and so does this. moto keeps what it has got of a put whose sender
was killed; S3 and this keep nothing. moto takes any credentials; this knows one key. And it can be
told to fail as networks and busy stores do.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any, Literal

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

ACCESS_KEY = "the-only-key"
SETTINGS = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests",
    "AWS_DEFAULT_REGION": "us-east-1",
    # Nothing of the user's own.
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    "AWS_EC2_METADATA_DISABLED": "true",
}

Fault = Literal["answer lost", "conflict", "denied", "condition passed over"]
_STATUS = {"answer lost": "503 Busy", "conflict": "409 Conflict", "denied": "403 Forbidden"}
_CODES = {
    "answer lost": "ServiceUnavailable",
    "conflict": "ConditionalRequestConflict",
    "denied": "AccessDenied",
}


class S3Server:
    """Runs in a thread of this process from its making to `close`."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        """What happens to the next puts, one each."""
        self._moto: Callable[..., Iterable[bytes]] = DomainDispatcherApplication(create_backend_app)
        self._writing = threading.Lock()
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if f"Credential={ACCESS_KEY}/" not in environ.get("HTTP_AUTHORIZATION", ""):
            _read_body(environ)
            return _refuse(start_response, "403 Forbidden", "InvalidAccessKeyId")
        # Before the lock is taken: a sender that is stopped must not stop all the others.
        body, is_whole = _read_body(environ)
        if not is_whole:
            return _refuse(start_response, "400 Bad Request", "IncompleteBody")
        environ["wsgi.input"] = BytesIO(body)
        if environ["REQUEST_METHOD"] not in ("PUT", "DELETE"):
            return self._moto(environ, start_response)
        with self._writing:
            fault = self.faults.pop(0) if self.faults else None
            if fault == "condition passed over":
                environ.pop("HTTP_IF_NONE_MATCH", None)
            if fault in ("conflict", "denied"):
                return _refuse(start_response, _STATUS[fault], _CODES[fault])
            if fault != "answer lost":
                return list(self._moto(environ, start_response))
            list(self._moto(environ, lambda *_: None))
            return _refuse(start_response, _STATUS[fault], _CODES[fault])


def _read_body(environ: dict[str, Any]) -> tuple[bytes, bool]:
    """What was sent, and whether that is all that was announced."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    try:
        body = environ["wsgi.input"].read(length)
    except OSError:  # The sender is gone.
        return b"", False
    return body, len(body) == length


def _refuse(start_response: Any, status: str, code: str) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "application/xml")])
    return [f"<Error><Code>{code}</Code><Message>as the test has it</Message></Error>".encode()]
