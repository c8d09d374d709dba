"""What machines cost by the hour: a table that users replace by their own, and a node's price."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import Field

from distcnn import config_file
from distcnn.cluster.spec import ClusterSpec, Target
from distcnn.config import Section

Price = Annotated[float, Field(ge=0)]

_SHIPPED = Path(__file__).with_name("prices.yaml")
# What a price stands for, where it is not simply what will be paid.
_MEANING: dict[Target, str] = {
    "local": "nothing more than this machine costs anyway",
    "ray": "the cluster is paid for either way, and what its machines are only it knows",
    "slurm": "if it were rented for this; a cluster's own machines are paid for either way",
    "kuberay": "for machines of just this size; an autoscaler's may be larger",
}


class PriceTable(Section):
    """Prices of an hour each."""

    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    """Its three letters (ISO 4217)."""
    as_of: date
    """The day that they are of."""
    source: Annotated[str, Field(min_length=1)]
    """Where they are from, for people."""
    cpu: Price
    """A CPU."""
    memory_gib: Price
    """A GiB of memory."""
    gpus: dict[str, Price] = Field(default={})
    """A GPU, by its kind as `cluster.accelerator_type` has it."""
    spot_factor: Annotated[float, Field(gt=0, le=1)] = 1.0
    """What a machine that can be taken away costs, as a share of another."""


@dataclass(frozen=True)
class NodePrice:
    """What one of a job's machines costs."""

    per_hour: float | None
    """None where the table does not tell."""
    note: str
    """For people: what the price means, or what the table lacks."""


def load_prices(path: Path | None) -> PriceTable:
    """The prices in that file, or the one that `DISTCNN_PRICES` names, or the shipped examples.

    Raises:
        ConfigError: the file cannot be read, or with everything that is wrong with it.
    """
    chosen = path or Path(os.environ.get("DISTCNN_PRICES") or _SHIPPED)
    draft = config_file.Draft(PriceTable)
    draft.merge(config_file.read_yaml(chosen.expanduser()), str(chosen))
    checked = draft.check()
    return config_file.refuse(checked, "prices") if isinstance(checked, list) else checked


def node_price(spec: ClusterSpec, prices: PriceTable) -> NodePrice:
    """What a machine of the spec costs by the table; nothing where it is this one."""
    meaning = _MEANING[spec.target]
    if spec.target == "local":
        return NodePrice(0.0, meaning)
    if spec.target == "ray":
        return NodePrice(None, meaning)
    per_hour = prices.cpu * spec.cpus_per_node + prices.memory_gib * spec.memory_gib_per_node
    if spec.gpus_per_node:
        kind = spec.accelerator_type
        if kind is None:
            return NodePrice(None, "GPUs are priced by their kind; set cluster.accelerator_type")
        if kind not in prices.gpus:
            known = ", ".join(prices.gpus) or "none"
            return NodePrice(None, f"no price of {kind} among the table's gpus ({known}); add it")
        per_hour += prices.gpus[kind] * spec.gpus_per_node
    return NodePrice(per_hour * (prices.spot_factor if spec.spot else 1.0), meaning)
