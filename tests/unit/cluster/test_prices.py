"""Price tables, and what a machine costs by them."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from distcnn.cluster.job import job_of_run
from distcnn.cluster.parcel import parcel_of
from distcnn.cluster.prices import PriceTable, load_prices, node_price
from distcnn.cluster.spec import ClusterSpec
from distcnn.config import RunConfig
from distcnn.config_file import ConfigError

TABLE = PriceTable(
    currency="EUR",
    as_of=date(2026, 11, 1),
    source="the bill of October",
    cpu=0.5,
    memory_gib=0.1,
    gpus={"A100": 3.0},
    spot_factor=0.25,
)
WRITTEN = """\
currency: EUR
as_of: 2026-11-01
source: the bill of October
cpu: 0.5
memory_gib: 0.1
gpus: {A100: 3}
spot_factor: 0.25
"""


def rented(**fields: Any) -> ClusterSpec:
    plain = {"target": "slurm", "cpus_per_node": 4, "memory_gib_per_node": 10.0, **fields}
    return ClusterSpec.model_validate(plain)


def test_the_shipped_table_says_that_it_is_an_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISTCNN_PRICES", raising=False)
    shipped = load_prices(None)
    assert "example" in shipped.source and "--prices" in shipped.source
    assert shipped.gpus


def test_a_table_of_ones_own_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ours.yaml"
    path.write_text(WRITTEN)
    assert load_prices(path) == TABLE
    monkeypatch.setenv("DISTCNN_PRICES", str(path))
    assert load_prices(None) == TABLE
    other = tmp_path / "other.yaml"
    other.write_text(WRITTEN.replace("EUR", "CHF"))
    assert load_prices(other).currency == "CHF"


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(
        "as_of: last week\nsource: x\ncpu: -1\nmemory_gib: 0.1\ngpus: {A100: much}\ncurrency: EUR\n"
        "spot_facter: 0.5\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_prices(path)
    assert sorted(str(caught.value).replace(f"({path})", "").splitlines()) == [
        "  as_of = 'last week' : a valid date in the format YYYY-MM-DD, input is too short",
        "  cpu = -1 : greater than or equal to 0",
        "  gpus = 'much' : a number",
        "  spot_facter : no such field; did you mean spot_factor?",
        "4 errors in the prices",
    ]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_prices(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("fields", "per_hour"),
    [
        ({}, 3.0),
        ({"gpus_per_node": 2, "accelerator_type": "A100"}, 9.0),
        ({"gpus_per_node": 2, "accelerator_type": "A100", "spot": True}, 2.25),
        ({"target": "local"}, 0.0),
    ],
)
def test_a_machine_costs_what_is_in_it(fields: dict[str, Any], per_hour: float) -> None:
    assert node_price(rented(**fields), TABLE).per_hour == pytest.approx(per_hour)


def test_a_gpu_without_a_price_is_named() -> None:
    price = node_price(rented(gpus_per_node=1, accelerator_type="B300"), TABLE)
    assert price.per_hour is None
    assert "B300" in price.note and "A100" in price.note
    price = node_price(rented(gpus_per_node=1), TABLE)
    assert price.per_hour is None
    assert "cluster.accelerator_type" in price.note


def test_a_cluster_one_has_is_paid_for() -> None:
    assert "paid for either way" in node_price(rented(), TABLE).note
    assert node_price(rented(target="ray"), TABLE).per_hour is None


def test_the_shipped_table_travels_with_a_job() -> None:
    job = job_of_run(RunConfig(), rented(), Path("/shared/runs/one"), None)
    assert b"EXAMPLE" in parcel_of(job).files["distcnn/cluster/prices.yaml"]
