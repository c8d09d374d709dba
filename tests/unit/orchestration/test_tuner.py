"""What Ray Tune's controller makes of processes that end."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError

from distcnn.orchestration import tuner


def test_a_process_that_ray_ends_for_its_memory_has_died(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = tuner._ActorManager(resource_manager=None)  # pyright: ignore
    monkeypatch.setattr(manager, "_cleanup_actor", lambda tracked_actor: None)
    told: list[Exception] = []
    on_error = SimpleNamespace(
        actor_id=1, _on_error=lambda tracked_actor, exception: told.append(exception)
    )
    task = SimpleNamespace(_tracked_actor=on_error, _on_error=on_error._on_error)
    killed = OutOfMemoryError("Task was killed due to the node running low on memory.")
    manager._actor_task_failed(task, killed)  # pyright: ignore
    assert told
    for error in told:
        assert isinstance(error, RayActorError)
        assert "ran out of memory" in tuner._described(error)  # pyright: ignore


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ActorDiedError(), "its process died"),
        (
            RayActorError(
                error_msg="The actor died in its constructor\n\nNo module named 'distcnn'",
                actor_init_failed=True,
            ),
            "its process failed: No module named 'distcnn'",
        ),
    ],
)
def test_why_a_process_has_ended(error: RayActorError, expected: str) -> None:
    assert tuner._described(error) == expected  # pyright: ignore
