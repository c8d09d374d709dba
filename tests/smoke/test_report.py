"""The report of a run shows all that it should, in a real browser."""

from __future__ import annotations

from pathlib import Path

from tests.browser import (
    RUN_FIGURES,
    RUN_HEADINGS,
    Browser,
    assert_well_shown,
    needs_browser,
    texts,
)


@needs_browser
def test_the_report_of_a_run_is_shown(chromium: Browser, undisturbed: Path) -> None:
    page = undisturbed / "report.html"
    assert_well_shown(chromium, page)
    assert texts(chromium, "h2") == RUN_HEADINGS
    assert texts(chromium, "figure h3") == RUN_FIGURES
    assert chromium.ask("document.scripts.length") == 0
