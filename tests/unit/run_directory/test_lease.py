"""One writer per run, whoever dies, hangs or comes back."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distcnn.files import write_atomically
from distcnn.location import Location
from distcnn.run_directory import lease as lease_module
from distcnn.run_directory.lease import (
    Holder,
    Lease,
    LeaseLostError,
    RunBusyError,
    current_holder,
)

HOLD_UNTIL_KILLED = """
import sys, time
from distcnn.location import location
from distcnn.run_directory.lease import Lease
Lease.acquire(location(sys.argv[1]), print)
print("held", flush=True)
time.sleep(600)
"""

TAKE_PART_IN_A_RACE = """
import sys
from distcnn.location import location
from distcnn.run_directory.lease import Lease, RunBusyError
print("ready", flush=True)
sys.stdin.readline()
try:
    lease = Lease.acquire(location(sys.argv[1]), print)
    print("won", flush=True)
except RunBusyError:
    print("refused", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def holding_process(place: Location):
    """Another process that holds the lease in `place`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_UNTIL_KILLED, str(place)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def acquire(directory: Location, notify: Callable[[str], None] = print) -> Lease:
    return Lease.acquire(directory, notify)


def claim_for_another_host(directory: Location, attempt: int = 1, heartbeat: int = 0) -> Holder:
    """A claim as a process on another machine would have left it."""
    holder = replace(Holder.this_process(attempt), host="elsewhere", heartbeat=heartbeat)
    write_atomically(directory / f"attempt-{attempt:06d}.json", holder.encode())
    return holder


def test_attempts_are_counted(place: Location) -> None:
    for expected in (1, 2, 3):
        lease = acquire(place)
        assert lease.fence.attempt == expected
        lease.release()


def test_a_living_holder_on_this_host_is_respected(
    place: Location, holding_process: subprocess.Popen[str]
) -> None:
    with pytest.raises(
        RunBusyError, match=f"process {holding_process.pid} on {os.uname().nodename}"
    ):
        acquire(place)


def test_a_stopped_process_still_lives(
    place: Location, holding_process: subprocess.Popen[str]
) -> None:
    holding_process.send_signal(signal.SIGSTOP)
    with pytest.raises(RunBusyError):
        acquire(place)


def test_a_killed_holder_on_this_host_is_replaced_at_once(
    place: Location, holding_process: subprocess.Popen[str]
) -> None:
    holding_process.kill()
    holding_process.wait()
    started = time.monotonic()
    lease = acquire(place)
    assert time.monotonic() - started < 1
    assert lease.fence.attempt == 2
    lease.release()


def test_a_reused_process_number_is_not_the_holder(place: Location) -> None:
    mine = Holder.this_process(1)
    earlier = replace(mine, process_started=mine.process_started - 3600)
    write_atomically(place / "attempt-000001.json", earlier.encode())
    lease = acquire(place)
    assert lease.fence.attempt == 2
    lease.release()


def test_a_silent_holder_elsewhere_is_waited_for_and_said(
    place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "TIME_TO_LIVE_SECONDS", 0.3)
    monkeypatch.setattr(lease_module, "_POLL_SECONDS", 0.05)
    claim_for_another_host(place)
    said: list[str] = []
    started = time.monotonic()
    lease = acquire(place, said.append)
    assert time.monotonic() - started >= 0.3
    assert lease.fence.attempt == 2
    assert "elsewhere" in said[0]
    lease.release()


def test_a_beating_holder_elsewhere_is_respected(
    place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "_POLL_SECONDS", 0.05)
    claim_for_another_host(place)
    with pytest.raises(RunBusyError, match="elsewhere"):
        acquire(place, lambda _: claim_for_another_host(place, heartbeat=1) and None)


def test_a_holder_that_lost_the_run_may_not_commit(place: Location) -> None:
    lease = acquire(place)
    lease.fence.check()
    claim_for_another_host(place, attempt=2)
    with pytest.raises(LeaseLostError, match="elsewhere"):
        lease.fence.check()
    lease.release()


def test_the_heartbeat_moves(place: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "_HEARTBEAT_SECONDS", 0.02)
    lease = acquire(place)
    deadline = time.monotonic() + 5
    while True:
        holder = current_holder(place)
        assert holder is not None
        if holder.heartbeat >= 2:
            break
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lease.release()
    holder = current_holder(place)
    assert holder is not None
    assert holder.released


def test_of_many_at_once_exactly_one_wins(place: Location) -> None:
    """All live until the end, so every other one has to be refused."""
    command = [sys.executable, "-c", TAKE_PART_IN_A_RACE, str(place)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    outcomes: list[str] = []
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        assert process.stdout is not None
        outcomes.append(process.stdout.readline().strip())
    for process in processes:
        process.communicate("end\n")
    assert sorted(outcomes) == ["refused"] * 7 + ["won"]


@pytest.mark.parametrize("content", [b"{", b"", b"[]", b'{"who": 1}', b"[" * 100_000])
def test_a_claim_that_cannot_be_read_is_waited_for(
    place: Location, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """Its process may be alive: without a sign of that, the run is taken over."""
    monkeypatch.setattr(lease_module, "TIME_TO_LIVE_SECONDS", 0.1)
    write_atomically(place / "attempt-000007.json", content)
    notes: list[str] = []
    lease = Lease.acquire(place, notes.append)
    assert lease.fence.attempt == 8
    assert "was last written by an unknown process; waiting" in notes[0]
    lease.release()


def test_a_living_process_repairs_its_claim(
    place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "_HEARTBEAT_SECONDS", 0.02)
    lease = acquire(place)
    write_atomically(place / "attempt-000001.json", b"{")
    lease.fence.check()
    with pytest.raises(RunBusyError, match=f"process {os.getpid()}"):
        acquire(place)
    lease.release()


def test_with_its_claim_deleted_a_process_does_not_write_beside_the_next(
    place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both claim the first attempt."""
    monkeypatch.setattr(lease_module, "_HEARTBEAT_SECONDS", 0.02)
    first = acquire(place)
    # Until its next heartbeat, which finds the claim of another.
    with first._writing:
        (place / "attempt-000001.json").unlink()
        second = acquire(place)
    time.sleep(0.1)
    second.fence.check()
    with pytest.raises(LeaseLostError):
        first.fence.check()
    first.release()
    second.fence.check()
    second.release()


def test_a_claim_is_later_than_what_the_run_has_seen(place: Location) -> None:
    lease = Lease.acquire(place, print, after_attempt=4)
    assert lease.fence.attempt == 5
    lease.release()


@given(st.lists(st.sampled_from(["acquire", "release", "usurp"]), max_size=12))
def test_at_most_one_lease_is_valid_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, moves: list[str]
) -> None:
    """`usurp` is a later attempt elsewhere, which took this process for dead."""
    directory = tmp_path_factory.mktemp("lease")
    leases: list[Lease] = []
    for move in moves:
        holder = current_holder(directory)
        if move == "acquire" and (holder is None or holder.released):
            leases.append(acquire(directory))
        elif move == "release" and leases:
            leases[-1].release()
        elif move == "usurp":
            attempt = holder.attempt + 1 if holder else 1
            claim_for_another_host(directory, attempt)
            write_atomically(
                directory / f"attempt-{attempt:06d}.json",
                replace(Holder.this_process(attempt), released=True).encode(),
            )
        valid = [lease for lease in leases if _is_valid(lease)]
        assert len(valid) <= 1
        assert all(lease is leases[-1] for lease in valid)
    for lease in leases:
        lease.release()


def _is_valid(lease: Lease) -> bool:
    try:
        lease.fence.check()
    except LeaseLostError:
        return False
    return True


# The next attempt of the same holder: a restart of a run's workers.


def test_a_restart_fences_off_the_workers_before(place: Location) -> None:
    lease = acquire(place)
    before = lease.fence
    after = lease.advance()
    assert (before.attempt, after.attempt) == (1, 2)
    assert lease.fence == after
    after.check()
    with pytest.raises(LeaseLostError, match=f"process {os.getpid()}"):
        before.check()
    lease.release()


def test_a_fence_holds_in_another_process_too(place: Location) -> None:
    lease = acquire(place)
    fence = pickle.loads(pickle.dumps(lease.fence))
    assert fence == lease.fence
    fence.check()
    lease.advance()
    with pytest.raises(LeaseLostError):
        fence.check()
    lease.release()


def test_the_heart_beats_on_in_the_next_attempt(
    place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "_HEARTBEAT_SECONDS", 0.02)
    lease = acquire(place)
    lease.advance()
    deadline = time.monotonic() + 5
    seen: set[int] = set()
    while len(seen) < 3:
        holder = current_holder(place)
        assert holder is not None
        assert (holder.attempt, holder.pid, holder.released) == (2, os.getpid(), False)
        seen.add(holder.heartbeat)
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lease.release()


def test_released_after_restarts_the_run_is_free(place: Location) -> None:
    lease = acquire(place)
    lease.advance()
    lease.advance()
    lease.release()
    holder = current_holder(place)
    assert holder is not None
    assert (holder.attempt, holder.released) == (3, True)
    following = acquire(place)
    assert following.fence.attempt == 4
    following.release()


def test_who_lost_the_run_cannot_restart_it(place: Location) -> None:
    lease = acquire(place)
    taker = claim_for_another_host(place, attempt=2)
    with pytest.raises(LeaseLostError, match="elsewhere"):
        lease.advance()
    assert current_holder(place) == taker
    assert lease.fence.attempt == 1
    lease.release()
    assert current_holder(place) == taker
