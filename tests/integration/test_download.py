"""The download against real HTTP servers on this machine, which serve small stand-in files."""

import gzip
import hashlib
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

from distcnn.data import fashion_mnist
from distcnn.data.cache import format_idx
from distcnn.data.fashion_mnist import DataUnavailableError, OfficialFile, load

NUM_PROCESSES = 20

ARRAYS = tuple(
    np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for shape in ((60, 28, 28), (60,), (30, 28, 28), (30,))
)
PACKED = {
    file.gz_name: gzip.compress(format_idx(array), mtime=0)
    for file, array in zip(fashion_mnist.FILES, ARRAYS, strict=True)
}
FILES = tuple(
    OfficialFile(
        file.name,
        array.shape,
        hashlib.sha256(PACKED[file.gz_name]).hexdigest(),
        hashlib.sha256(format_idx(array)).hexdigest(),
    )
    for file, array in zip(fashion_mnist.FILES, ARRAYS, strict=True)
)


class Mirror:
    """A running server: its address, and how often each file was asked for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.num_gets: Counter[str] = Counter()


Reply = Callable[[BaseHTTPRequestHandler, bytes], None]


def send(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def send_slowly(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    time.sleep(0.1)
    send(handler, body)


def send_altered(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    send(handler, body[:-1] + bytes([body[-1] ^ 1]))


def send_half(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.wfile.flush()


def send_not_found(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
    handler.send_error(404)


class HalfThenSilence:
    """Sends half of a file and then nothing more, until it is released."""

    def __init__(self) -> None:
        self.half_sent = Event()
        self.released = Event()

    def __call__(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        send_half(handler, body)
        self.half_sent.set()
        self.released.wait(10)


@contextmanager
def serving(reply: Reply) -> Iterator[Mirror]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def do_GET(self) -> None:
            name = self.path.removeprefix("/")
            mirror.num_gets[name] += 1
            with suppress(BrokenPipeError, ConnectionResetError):
                reply(self, PACKED[name])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        mirror = Mirror(f"http://127.0.0.1:{server.server_port}/")
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield mirror
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def serve():
    """Start servers that stop when the test ends."""
    with ExitStack() as stack:
        yield lambda reply: stack.enter_context(serving(reply))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.delenv("DISTCNN_DATA_DIR", raising=False)
    monkeypatch.setenv("DISTCNN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "fashion-mnist"


@pytest.fixture
def use(monkeypatch):
    """Put the stand-in files and the given mirrors in place of the official ones."""

    def use(*mirrors: str) -> None:
        monkeypatch.setattr(fashion_mnist, "FILES", FILES)
        monkeypatch.setattr(fashion_mnist, "MIRRORS", mirrors)

    return use


@pytest.fixture
def dead_url() -> str:
    """An address where nobody listens."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        return f"http://127.0.0.1:{server.server_port}/"


def assert_official(loaded) -> None:
    for array, original in zip(loaded, ARRAYS, strict=True):
        np.testing.assert_array_equal(array, original)


def assert_no_leftovers(cache: Path) -> None:
    names = {path.name for path in cache.iterdir()} - {f".lock-{os.uname().nodename}"}
    assert names <= {file.name for file in FILES}


def test_second_mirror_stands_in_for_a_dead_one(use, serve, cache, dead_url):
    mirror = serve(send)
    use(dead_url, mirror.url)
    told = []
    assert_official(load(None, told.append))
    assert told == [f"Downloading {mirror.url}{name}" for name in PACKED]
    assert mirror.num_gets == dict.fromkeys(PACKED, 1)
    assert_no_leftovers(cache)
    assert_official(load(None, told.append))
    assert mirror.num_gets.total() == 4


@pytest.mark.parametrize("reply", [send_altered, send_half, send_not_found])
def test_mirror_that_fails_is_asked_once(use, serve, cache, reply):
    bad, good = serve(reply), serve(send)
    use(bad.url, good.url)
    assert_official(load(None, lambda _: None))
    assert bad.num_gets.total() == 1
    assert good.num_gets.total() == 4
    assert_no_leftovers(cache)


def test_mirror_that_stalls_is_given_up(use, serve, cache, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "STALL_SECONDS", 0.2)
    stalls = HalfThenSilence()
    bad, good = serve(stalls), serve(send)
    use(bad.url, good.url)
    assert_official(load(None, lambda _: None))
    stalls.released.set()
    assert bad.num_gets.total() == 1
    assert_no_leftovers(cache)


def test_only_what_is_missing_is_downloaded(use, serve, tmp_path):
    mirror = serve(send)
    use(mirror.url)
    given = tmp_path / "given"
    given.mkdir()
    for name in list(PACKED)[:3]:
        (given / name).write_bytes(PACKED[name])
    assert_official(load(given, lambda _: None))
    assert mirror.num_gets == {"t10k-labels-idx1-ubyte.gz": 1}


def test_damaged_cache_is_fetched_again(use, serve, cache):
    mirror = serve(send)
    use(mirror.url)
    load(None, lambda _: None)
    path = cache / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    told = []
    assert_official(load(None, told.append))
    assert told[0] == f"{path} is damaged and will be replaced."
    assert mirror.num_gets["t10k-labels-idx1-ubyte.gz"] == 2
    assert mirror.num_gets.total() == 5


def test_all_mirrors_failing_lists_each_with_its_error(use, serve, cache, dead_url):
    altered, lost = serve(send_altered), serve(send_not_found)
    use(dead_url, altered.url, lost.url)
    with pytest.raises(DataUnavailableError) as caught:
        load(None, lambda _: None)
    message = str(caught.value)
    assert f"{dead_url}: [Errno" in message
    assert f"{altered.url}: SHA256 hash of downloaded file" in message
    assert f"{lost.url}: 404" in message
    for name in PACKED:
        assert name in message
    assert_no_leftovers(cache)


def test_mirrors_that_never_answer_cost_one_deadline_in_all(use, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "PROBE_SECONDS", 0.3)
    with ExitStack() as stack:
        # They listen, and nobody ever accepts.
        silent = [
            stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler))
            for _ in range(4)
        ]
        use(*(f"http://127.0.0.1:{server.server_port}/" for server in silent))
        start = time.monotonic()
        with pytest.raises(DataUnavailableError):
            load(None, lambda _: None)
        assert time.monotonic() - start < 4 * 0.3


def load_in_child(cache_dir: Path, mirrors: tuple[str, ...], barrier) -> None:
    """Load in a process of its own, as soon as all others are ready too."""
    os.environ["DISTCNN_CACHE_DIR"] = str(cache_dir)
    os.environ.pop("DISTCNN_DATA_DIR", None)  # Of the time when the server was started.
    fashion_mnist.FILES, fashion_mnist.MIRRORS = FILES, mirrors
    barrier.wait(60)
    assert_official(load(None, lambda _: None))


@contextmanager
def children(count: int, cache_dir: Path, *mirrors: str):
    """Processes that load at the same moment, forked from a server that has imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "distcnn.data.fashion_mnist", "pooch", "requests"])
    barrier = context.Barrier(count)
    processes = [
        context.Process(target=load_in_child, args=(cache_dir, mirrors, barrier))
        for _ in range(count)
    ]
    for process in processes:
        process.start()
    yield processes
    for process in processes:
        process.join(60)
        process.close()


def test_twenty_processes_at_once_make_one_download(serve, cache):
    mirror = serve(send_slowly)
    with children(NUM_PROCESSES, cache.parent, mirror.url) as processes:
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0] * NUM_PROCESSES
    assert mirror.num_gets == dict.fromkeys(PACKED, 1)
    assert_no_leftovers(cache)


def test_process_killed_in_a_download_leaves_nothing_that_counts(use, serve, cache):
    stalls = HalfThenSilence()
    with children(1, cache.parent, serve(stalls).url) as (process,):
        assert stalls.half_sent.wait(30)
        process.kill()
    stalls.released.set()
    assert {path.name for path in cache.iterdir()} - {f".lock-{os.uname().nodename}"} == {
        f"partial-{os.uname().nodename}"
    }

    mirror = serve(send)
    use(mirror.url)
    assert_official(load(None, lambda _: None))
    assert mirror.num_gets.total() == 4
    assert_no_leftovers(cache)
