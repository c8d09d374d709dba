"""The precision is decided by what the device can do, and measured only in doubt."""

from __future__ import annotations

import pytest
import torch

from distcnn.config import RunConfig
from distcnn.training import precision
from tests.unit.needs import needs_bfloat16

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"architecture": "x86_64", "amx_bf16": True}, "bf16-mixed"),
        ({"architecture": "x86_64", "avx512_bf16": True}, "bf16-mixed"),
        ({"architecture": "x86_64", "avx2": True}, "32-true"),
    ],
)
def test_a_cpu_that_says_what_it_has_is_believed(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, object], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.delattr(precision, "_measure")
    assert precision.decide(RunConfig(), CPU)[0] == expected


@needs_bfloat16
def test_another_kind_of_cpu_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "aarch64"})
    config = RunConfig().with_values(model={"channels": [2]})
    chosen, reason = precision.decide(config, CPU)
    assert chosen in ("32-true", "bf16-mixed")
    assert "measured" in reason
    across = config.with_values(training={"reproducible": "across-workers"})
    assert precision.decide(across, CPU)[0] == "32-true"
