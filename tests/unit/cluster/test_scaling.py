"""The model of how training scales, beside what was measured."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from distcnn.cluster.pace import ARTICLE
from distcnn.cluster.scaling import Parts

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parents[3] / "benchmarks" / "results_ray.json").read_text(encoding="utf-8")
)
MEASURED = RECORDED["scaling"]["measured"]
ONE_OF_TWO_THREADS = RECORDED["throughput"]["1 worker, 2 threads"]
TWO_OF_ONE_CORE = RECORDED["throughput"]["2 workers, 1 core each"]


def test_the_figures_that_are_shipped_are_those_that_were_measured() -> None:
    assert asdict(ARTICLE) == pytest.approx(RECORDED["scaling"]["parts"], rel=1e-4)


def test_two_workers_are_foretold_by_one() -> None:
    ratio = ARTICLE.images_per_second(2) / ARTICLE.images_per_second(1)
    assert median(MEASURED["1"]) * ratio == pytest.approx(median(MEASURED["2"]), rel=0.15)


def test_two_workers_are_foretold_by_two_threads() -> None:
    ratio = ARTICLE.images_per_second(2) / ARTICLE.images_per_second(1, cores=2)
    assert median(ONE_OF_TWO_THREADS) * ratio == pytest.approx(median(TWO_OF_ONE_CORE), rel=0.15)


PARTS = Parts(
    fixed=1e-3,
    per_image=1e-4,
    deviation=0.0,
    shared_sum=1e-3,
    vector_bytes=1000,
    latency=1e-2,
    bandwidth=1e6,
)


def test_a_step_is_computing_and_adding_up() -> None:
    assert PARTS.step(1, 100, 1) == pytest.approx(1e-3 + 100e-4)
    assert PARTS.step(4, 100, 4) == pytest.approx(1e-3 + 25e-4 + 2e-3)
    # Two hosts: three messages each way, and three quarters of both workers' vectors.
    across = 2 * 3 * 1e-2 + 2 * 3 / 4 * 2000 / 1e6
    assert PARTS.step(4, 100, 2) == pytest.approx(1e-3 + 25e-4 + across)


def test_threads_share_the_images_and_add_nothing_up() -> None:
    assert PARTS.step(1, 100, 1, cores=4) == pytest.approx(1e-3 + 25e-4)
    assert PARTS.step(1, 100, 1, cores=1.9) == PARTS.step(1, 100, 1)


def test_half_a_core_takes_twice_as_long() -> None:
    assert PARTS.step(1, 100, 1, cores=0.5) == pytest.approx(2 * PARTS.step(1, 100, 1))
