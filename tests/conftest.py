"""What all tests share: nothing of a test stays behind, and no skip goes unseen."""

from __future__ import annotations

import os
import re
import signal
import uuid
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from distcnn.location import Location
from distcnn.object_store import ObjectPath
from tests.shared import made_once

if TYPE_CHECKING:
    from tests.browser import Browser
    from tests.s3_server import S3Server
    from tests.two_nodes import TwoNodes

# Started in the background by a script (`make test &`), this process ignores Ctrl-C, and so would
# all that tests start and then press Ctrl-C in.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Two threads that wait for each other crawl as soon as anything else runs; set before torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_ALLOWED_SKIPS = Path(__file__).parents[1] / ".ci" / "allowed-skips"
_skips: dict[str, str] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    """`make chaos` asks for more."""
    parser.addoption(
        "--chaos-rounds", type=int, default=1, help="how long the random schedules are"
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what starts processes of all kinds as slow."""
    if "integration" in item.path.parts:
        item.add_marker("slow")


@pytest.hookimpl(trylast=True)  # When the marks have been looked at.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each worker long tests first, so that what is left at the end is short.

    pytest-xdist's worksteal cuts the list into equal parts; who is done takes from the end of
    another's part.
    """
    num_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if num_workers == 1:
        return
    long = [item for item in items if "unit" not in item.path.parts]
    short = [item for item in items if "unit" in item.path.parts]
    files = list(dict.fromkeys(item.path for item in long))
    size = -(-len(items) // num_workers)
    arranged: list[pytest.Item] = []
    for worker in range(num_workers):
        part = [item for item in long if item.path in files[worker::num_workers]]
        num_short = max(0, size - len(part))
        arranged += part + short[:num_short]
        del short[:num_short]
    items[:] = arranged + short


@pytest.fixture
def chaos_rounds(pytestconfig: pytest.Config) -> int:
    """How often random schedules hurt a run."""
    return pytestconfig.getoption("--chaos-rounds")


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """Keep the user's own cache out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        if "DISTCNN_CACHE_DIR" not in os.environ:
            patch.setenv("DISTCNN_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _processes_of_the_test() -> Generator[None]:
    """A test that fails leaves no process to the next."""
    from tests.runs import end_those_started

    yield
    end_those_started()


@pytest.fixture(scope="session")
def s3_server() -> Generator[S3Server]:
    """An object store, which this process and those that it starts are set up for."""
    from tests.s3_server import SETTINGS, S3Server

    server = S3Server()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**SETTINGS, "AWS_ENDPOINT_URL": server.url}.items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        yield server
    server.close()


@pytest.fixture(scope="session")
def new_bucket(s3_server: S3Server) -> Callable[[], ObjectPath]:
    """Makes an empty bucket."""
    import boto3

    def new_bucket() -> ObjectPath:
        name = f"bucket-{uuid.uuid4().hex}"
        boto3.client("s3").create_bucket(Bucket=name)
        return ObjectPath(name, "")

    return new_bucket


@pytest.fixture
def bucket(new_bucket: Callable[[], ObjectPath]) -> ObjectPath:
    """An empty bucket."""
    return new_bucket()


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Generator[TwoNodes]:
    """A Ray cluster that was there before, with a token and a dashboard."""
    from tests.two_nodes import TwoNodes

    nodes = TwoNodes(tmp_path_factory.mktemp("nodes"))
    try:
        yield nodes
    finally:
        nodes.close()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a run that was left alone; all tests share it, and only read it."""
    from tests.runs import finish, train_command

    return made_once(tmp_path_factory, "run", lambda run: finish(train_command(run)))


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run as `undisturbed`, reproducible across workers, of one worker."""
    from tests.launches import ACROSS
    from tests.runs import finish, train_command

    return made_once(tmp_path_factory, "across", lambda run: finish(train_command(run, *ACROSS)))


@pytest.fixture(scope="module")
def chromium() -> Generator[Browser]:
    """Return a headless Chromium."""
    from tests.browser import browser

    with browser() as opened:
        yield opened


@pytest.fixture
def ray_user(two_nodes: TwoNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who sends jobs to that cluster, and has sent none before."""
    monkeypatch.setenv("DISTCNN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", two_nodes.address)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(two_nodes.token_file))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """An empty folder, and again an empty bucket."""
    return tmp_path if request.param == "folder" else request.getfixturevalue("bucket")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember each skip."""
    _remember(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Remember each skip of a whole file."""
    _remember(report)


def _remember(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple) and not hasattr(report, "wasxfail"):
        _skips[report.nodeid] = report.longrepr[2].removeprefix("Skipped: ")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under `CI=true`, fail for a skip that `.ci/allowed-skips` does not list."""
    if os.environ.get("CI") == "true" and _unexpected_skips() and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List every skipped test with its reason."""
    if not _skips:
        return
    terminalreporter.section("skipped tests")
    unexpected = _unexpected_skips()
    for nodeid, reason in _skips.items():
        note = "  NOT in .ci/allowed-skips" if nodeid in unexpected else ""
        terminalreporter.line(f"{nodeid}: {reason}{note}", red=bool(note))


def _unexpected_skips() -> list[str]:
    lines = _ALLOWED_SKIPS.read_text(encoding="utf-8").splitlines()
    allowed = [line for line in lines if line and not line.startswith("#")]
    return [
        nodeid
        for nodeid, reason in _skips.items()
        if not any(re.search(pattern, reason) for pattern in allowed)
    ]
