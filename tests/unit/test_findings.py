"""What an examination found is read in a log as well as on a terminal."""

from __future__ import annotations

import pytest

from distcnn.findings import Finding, any_failed, print_findings


def test_a_long_line_is_not_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    remedy = "worker 1 has other data; " + "copy /a/rather/long/path there; " * 10 + "[then] again"
    print_findings([Finding("ok", "data", "alike"), Finding("fail", "storage", remedy)])
    assert capsys.readouterr().out.splitlines() == [
        "ok    data     alike",
        f"fail  storage  {remedy}",
    ]


def test_nothing_found_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings([])
    assert capsys.readouterr().out == ""


def test_only_what_failed_will_not_work() -> None:
    fine = [Finding("ok", "a", ""), Finding("note", "b", "")]
    assert not any_failed(fine)
    assert any_failed([*fine, Finding("fail", "c", "")])
