"""How a page is put together: one file that holds everything it shows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from distcnn import __version__
from distcnn.charts import axis
from distcnn.charts.axis import Axis
from distcnn.wording import accuracy_text, counted, percent


def render(template: str, **values: Any) -> str:
    """The page that a template makes of these values; text in them is escaped."""
    environment = _environment()
    style = Markup(environment.get_template("style.css").render())  # noqa: S704 - our own
    ours = {"style": style, "version": __version__, "counted": counted}
    return environment.get_template(template).render(ours | values)


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("distcnn.report")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["accuracy"] = accuracy_text
    return environment


def accuracy_axis(values: Sequence[float]) -> Axis:
    """In percent, unless a workload calls accuracy what is none."""
    return axis.linear("validation accuracy", values, is_share=are_shares(values))


def are_shares(values: Sequence[float]) -> bool:
    """Whether they can be told in percent."""
    return all(0 <= value <= 1 for value in values)


def interval(measured: dict[str, Any]) -> str:
    """The interval of a measured accuracy, in words; empty where there is none."""
    if "accuracy_interval_95" not in measured:
        return ""
    low, high = measured["accuracy_interval_95"]
    return f"95 % interval {100 * low:.2f} to {percent(high)}"
