"""Calls over connections of one's own: JSON, to a server that is known by a key.

Who calls has to know the key, which is never sent itself (HMAC).
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import (
    Client,
    Connection,
    answer_challenge,
    deliver_challenge,
)
from typing import Any


class LineLostError(Exception):
    """The server is gone, or does not answer."""


@dataclass(frozen=True)
class LineAddress:
    """Where a server is reached, and what lets one in."""

    host: str
    port: int
    key: bytes = field(repr=False)


@contextmanager
def served(
    host: str, calls: Mapping[str, Callable[..., Any]], unanswered: Collection[str] = ()
) -> Generator[LineAddress]:
    """Answer calls that come to this host's address, until the end of the block.

    Args:
        host: the address to listen at.
        calls: what is called, by name, each caller in a thread of its own.
        unanswered: those among them whose callers wait for nothing.
    """
    key = secrets.token_bytes(32)
    with socket.create_server((host, 0), backlog=1024) as server:
        arguments = (server, key, calls, unanswered)
        thread = threading.Thread(target=_accept, args=arguments, name="calls", daemon=True)
        thread.start()
        try:
            yield LineAddress(host, server.getsockname()[1], key)
        finally:
            server.shutdown(socket.SHUT_RDWR)  # Ends `accept`, which closing does not.
            thread.join()


def _accept(server: socket.socket, *arguments: Any) -> None:
    while True:
        try:
            caller, _ = server.accept()
        except OSError:
            return
        # In a thread of its own from the start: somebody who calls and says nothing stops nobody.
        threading.Thread(target=_serve, args=(caller, *arguments), daemon=True).start()


def _serve(
    caller: socket.socket,
    key: bytes,
    calls: Mapping[str, Callable[..., Any]],
    unanswered: Collection[str],
) -> None:
    """Do what one caller calls for, until it is gone."""
    # Somebody else may have called, or a caller may die while it does.
    with (
        Connection(caller.detach()) as connection,
        suppress(EOFError, OSError, AuthenticationError),
    ):
        deliver_challenge(connection, key)
        answer_challenge(connection, key)
        while True:
            name, arguments = json.loads(connection.recv_bytes())
            answer = calls[name](*arguments)
            if name not in unanswered:
                connection.send_bytes(json.dumps(answer).encode())


class Line:
    """A caller's connection; its threads take turns."""

    def __init__(self, address: LineAddress) -> None:
        """Call the server.

        Raises:
            LineLostError: it does not answer.
        """
        with _loss_explained():
            self._connection = Client((address.host, address.port), authkey=address.key)
        self._lock = threading.Lock()

    def ask(self, name: str, *arguments: Any) -> Any:
        """Call, and wait for the answer.

        Raises:
            LineLostError: the server is gone.
        """
        with self._lock, _loss_explained():
            self._connection.send_bytes(json.dumps([name, arguments]).encode())
            return json.loads(self._connection.recv_bytes())

    def tell(self, name: str, *arguments: Any) -> None:
        """Call for what has no answer; nobody hears it when the server is gone."""
        content = json.dumps([name, arguments]).encode()
        with suppress(OSError), self._lock:
            self._connection.send_bytes(content)


@contextmanager
def _loss_explained() -> Generator[None]:
    try:
        yield
    except (EOFError, OSError) as error:
        raise LineLostError(f"the driver is out of reach ({error or 'it has ended'})") from error
