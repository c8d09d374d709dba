"""Charts tell series apart without their colours."""

from __future__ import annotations

import re
from pathlib import Path

from distcnn import report
from distcnn.charts.chart import dot_sample

NUM_SERIES = 6


def test_each_series_has_a_dash_and_a_shape_of_its_own() -> None:
    style = (Path(report.__file__).parent / "templates" / "style.css").read_text(encoding="utf-8")
    dashes = re.findall(r"\.line\.s([1-9]) \{[^}]*stroke-dasharray: ([\d ]+);", style)
    assert [int(series) for series, _ in dashes] == list(range(1, NUM_SERIES)), "the first is solid"
    assert len({dash for _, dash in dashes}) == NUM_SERIES - 1
    shapes = {re.sub(r'class="[^"]*"', "", dot_sample(series)) for series in range(NUM_SERIES)}
    assert len(shapes) == NUM_SERIES
