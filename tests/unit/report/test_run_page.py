from distcnn.report.run_page import _attempts


def attempt(number: int) -> dict[str, object]:
    time = f"2026-11-28T16:00:0{number}+00:00"
    return {
        "event": "attempt",
        "attempt": number,
        "time": time,
        "workers": [{"host": "a"}] * number,
    }


def test_each_attempt_tells_how_it_ended():
    """In the order in which a driver records them: a restart bears the number of what it begins."""
    events = [
        attempt(1),
        {"event": "attempt_failed", "attempt": 1, "cause": "failure", "reason": "lost\nits host"},
        {"event": "restart", "attempt": 2, "cause": "failure", "reason": "lost"},
        attempt(2),
        {"event": "resize", "attempt": 2, "workers_before": 1, "workers": 2},
        attempt(3),
        {"event": "completed", "attempt": 3},
    ]
    told = [(each.number, each.workers, each.ended) for each in _attempts(events)]
    assert told == [
        (1, "1 on a", "failed: lost"),
        (2, "2 on a", "killed"),
        (3, "3 on a", "trained to the end"),
    ]


def test_one_attempt_is_nothing_to_tell_of():
    assert _attempts([attempt(1), {"event": "completed", "attempt": 1}]) == []
