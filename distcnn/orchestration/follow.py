"""Following a job to its end: through changes of its state, and through lost connections."""

from __future__ import annotations

import time

from distcnn.cluster.status import State, Status
from distcnn.cluster.view import JobView
from distcnn.orchestration.targets import Attached, OutOfReachError

_LOOK_EVERY_SECONDS = 1.0
_PAUSE_PER_LOOK = 5.0
_LONGEST_PAUSE_SECONDS = 10.0


def follow(job: Attached, view: JobView, lost_seconds: float) -> Status:
    """Show a job's log and state until it has ended.

    Args:
        job: what is followed.
        view: shown how it goes.
        lost_seconds: how long its cluster may be out of reach before the job counts as lost.
    """
    offset = 0
    reached_at = time.monotonic()
    try:
        while True:
            began = time.monotonic()
            try:
                # In this order: what was printed before it ended is not missed.
                status = job.status()
                chunk = job.log(offset)
            except OutOfReachError as error:
                silent_for = time.monotonic() - reached_at
                if silent_for > lost_seconds:
                    what = f"nothing was heard of its cluster for {silent_for:.0f} s: {error}"
                    lost = Status(State.LOST, detail=what)
                    view.status(lost)
                    return lost
                view.trouble(f"out of reach, trying again for {lost_seconds:.0f} s")
            else:
                reached_at = time.monotonic()
                view.trouble("")
                offset += len(chunk)
                view.log(chunk)
                view.status(status)
                if status.state.has_ended:
                    return status
            # Some have to send the whole log each time: the longer that takes, the rarer it is.
            pause = _PAUSE_PER_LOOK * (time.monotonic() - began)
            time.sleep(min(max(_LOOK_EVERY_SECONDS, pause), _LONGEST_PAUSE_SECONDS))
    finally:
        view.end()
