"""What a config leaves open is decided once, and then nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distcnn.cluster.request import Node, Request, shortfall
from distcnn.config import RunConfig
from distcnn.errors import UserError
from distcnn.progress import PlainWatcher
from distcnn.training.resolve import resolve, share_of_cores, with_decisions


@pytest.mark.parametrize(
    ("cores", "count", "share"),
    [
        (2, 1, 2),
        (2, 2, 1),
        (2, 3, 0.66),
        (2, 4, 0.5),
        (7, 2, 3),
        (1, 3, 0.33),
        (1, 8, 0.12),
        (29, 100, 0.29),
        (2, 200, 0.01),
    ],
)
def test_workers_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, count: int, share: float
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    assert share_of_cores(count) == share


@pytest.mark.parametrize("count", [201, 1000])
def test_a_share_below_the_least_is_the_least(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """So that the launch is refused with what would fit."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    asked = RunConfig().with_values(
        data={"source": "synthetic"},
        training={"global_batch_size": 1000},
        workers={"count": count, "gpus": 0},
    )
    config, _ = resolve(asked, PlainWatcher())
    assert config.workers.cpus == 0.01
    lacking = shortfall(Request.of(config.workers), [Node("", "here", {"CPU": 2}, {})])
    assert lacking is not None
    assert lacking.endswith("would fit: workers.count=200")


@given(cores=st.integers(1, 256), count=st.integers(1, 100))
def test_the_shares_fit_and_are_something_each(cores: int, count: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: cores)
        share = share_of_cores(count)
    assert share > 0
    assert count * share <= cores + 1e-9
    assert RunConfig().with_values(workers={"cpus": share}).workers.threads >= 1


def test_nothing_is_left_open() -> None:
    config = with_decisions(RunConfig(), "synthetic", "32-true", cpus=0.5, gpus=0)
    assert config.data.source == "synthetic"
    assert config.training.precision == "32-true"
    assert (config.workers.cpus, config.workers.gpus) == (0.5, 0)
    assert config.storage.directory == Path.cwd() / "runs"
    assert with_decisions(config, "synthetic", "32-true", cpus=0.5, gpus=0) == config


def test_what_was_given_stays(capsys: pytest.CaptureFixture[str]) -> None:
    given = RunConfig().with_values(
        data={"source": "synthetic"},
        training={"precision": "bf16-mixed"},
        workers={"count": 3, "cpus": 0.25, "gpus": 0, "label_selector": {"zone": "a"}},
    )
    config, dataset = resolve(given, PlainWatcher())
    assert dataset.name == "synthetic"
    assert config.workers == given.workers
    assert config.training.precision == "bf16-mixed"


def test_gpus_that_are_not_here_are_refused_with_what_was_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = RunConfig().with_values(
        data={"source": "synthetic"}, workers={"count": 2, "cpus": 1, "gpus": 1}
    )
    with pytest.raises(UserError, match=r"workers\.gpus = 1 for workers\.count = 2.*no GPU"):
        resolve(asked, PlainWatcher())
