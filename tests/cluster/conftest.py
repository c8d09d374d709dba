"""In which order the tests on clusters are run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launches import launch_command
from tests.runs import finish
from tests.shared import made_once

# By what they take on two cores. Files that are not named are short, and come last, so that no long
# one is left to run alone.
LONGEST_FIRST = (
    "test_slurm",
    "test_ray_cluster",
    "test_launch_recovery",
    "test_hosts_fail",
    "test_ray_jobs",
    "test_autoscaling",
    "test_across_workers",
    "test_ray_up",
    "test_kuberay_with_ray",
)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a launch that was left alone; all tests share it, and only read it."""
    return made_once(tmp_path_factory, "launch", lambda run: finish(launch_command(run)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest files first; within a file as they stand."""
    place = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))
