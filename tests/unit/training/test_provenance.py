"""What a run began on, and where it may go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distcnn.config import RunConfig
from distcnn.errors import UserError
from distcnn.run_directory.run import RunDirectory
from distcnn.training import provenance
from distcnn.training.provenance import Ground

ORDINARY = RunConfig().with_values(workers={"cpus": 1, "gpus": 0})
ACROSS = ORDINARY.with_values(training={"reproducible": "across-workers"})
KINDS = [
    ("cpu", "Another CPU"),
    ("instruction_set", "AVX"),
    ("further_instructions", "amx_bf16"),
    ("l2_cache_kib", 77),
    ("gpu", "Another GPU"),
]


def ground(**hardware: Any) -> Ground:
    return Ground("synthetic", "0" * 64, {**provenance.hardware(ORDINARY), **hardware})


def begun(path: Path, config: RunConfig) -> RunDirectory:
    run = RunDirectory(path)
    run.write_provenance(provenance.collect(config, ground(), "ray"))
    return run


@pytest.mark.parametrize(("part", "other"), KINDS)
def test_another_kind_is_refused_where_bits_are_promised_and_noted_elsewhere(
    part: str, other: Any, tmp_path: Path
) -> None:
    notes: list[str] = []
    elsewhere = ground(**{part: other})
    run = begun(tmp_path, ORDINARY)
    provenance.check_same_ground(run, ORDINARY, elsewhere, notes.append)
    assert f"began on another {part} (" in notes[0]
    run = begun(tmp_path, ACROSS)
    with pytest.raises(UserError, match=rf"of another kind than .*\({part} .*, there {other}\)"):
        provenance.check_same_ground(run, ACROSS, elsewhere, notes.append)


@pytest.mark.parametrize("config", [ORDINARY, ACROSS])
def test_the_same_kind_on_another_host_goes_on_in_silence(
    config: RunConfig, tmp_path: Path
) -> None:
    notes: list[str] = []
    elsewhere = ground(host="another", cores=77, memory_gib=1.0)
    provenance.check_same_ground(begun(tmp_path, config), config, elsewhere, notes.append)
    assert notes == []


def test_other_threads_are_another_run(tmp_path: Path) -> None:
    run = begun(tmp_path, ACROSS)
    with pytest.raises(UserError, match="is not what it began with"):
        provenance.check_same_ground(
            run, ACROSS.with_values(workers={"cpus": 2}), ground(), lambda _: None
        )


def test_another_torch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begun(tmp_path, ACROSS)
    here = provenance.versions()
    monkeypatch.setattr(provenance, "versions", lambda: {**here, "torch": "0.1"})
    with pytest.raises(UserError, match=r"\(torch .*, there 0\.1\)"):
        provenance.check_same_ground(run, ACROSS, ground(), lambda _: None)


def test_a_run_that_does_not_say_what_it_began_on(tmp_path: Path) -> None:
    notes: list[str] = []
    run = RunDirectory(tmp_path)
    provenance.check_same_ground(run, ORDINARY, ground(), notes.append)
    assert "cannot be told" in notes[0]
    with pytest.raises(UserError, match=r"cannot be told, which .*across-workers promises"):
        provenance.check_same_ground(run, ACROSS, ground(), notes.append)


def test_other_data_are_refused_with_both_digests(tmp_path: Path) -> None:
    run = begun(tmp_path, ORDINARY)
    other = Ground("synthetic", "1" * 64, ground().hardware)
    with pytest.raises(UserError, match=r"000000000000.*111111111111.*DISTCNN_DATA_DIR"):
        provenance.check_same_ground(run, ORDINARY, other, print)


def test_trackers_may_be_added_or_left_out_on_resume(tmp_path: Path) -> None:
    run = begun(tmp_path, ORDINARY)
    config = ORDINARY.with_values(training={"trackers": ["mlflow", "wandb"]})
    provenance.check_same_ground(run, config, ground(), print)
