"""A real browser that opens a page, and tells what it asked for and what went wrong."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

# Of Debian's packages chromium and chromium-driver.
CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
PHONE, DESKTOP = (390, 844), (1280, 900)


needs_browser = pytest.mark.skipif(
    not (CHROMIUM.exists() and DRIVER.exists()), reason="needs chromium and chromium-driver"
)

RUN_HEADINGS = [
    "How it learned",
    "What it recognises",
    "A picture's way through the network",
    "The network",
    "What ran on what",
]
RUN_FIGURES = [
    "Loss",
    "Accuracy",
    "Learning rate",
    "Pace",
    "Confusion",
    "Class by class",
    "Reliability",
]
# What is seen to be too wide, without its size, without its words.
TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
INVISIBLE = """[...document.querySelectorAll('img, svg[role=img]')].filter(each => {
  const box = each.getBoundingClientRect();
  return box.width < 10 || box.height < 10 || (each.tagName === 'IMG' && !each.naturalWidth);
}).length"""
WORDLESS = """[...document.querySelectorAll('img, svg[role=img]')].filter(each =>
  !(each.getAttribute('alt') || each.getAttribute('aria-label'))).length"""


class Browser:
    """Opens pages one after another."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver

    def open(self, page: Path, size: tuple[int, int], *, is_dark: bool) -> None:
        """Show a page from a file in a window of that size, in pixels."""
        width, height = size
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = "dark" if is_dark else "light"
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])
        for kind in ("performance", "browser"):  # Of the page before.
            self._log(kind)
        self._driver.get(page.as_uri())

    def call(self, command: str, **parameters: Any) -> dict[str, Any]:
        """A command of the Chrome DevTools protocol."""
        return self._driver.execute_cdp_cmd(command, parameters)

    def ask(self, script: str) -> Any:
        """What a script says of the page."""
        return self._driver.execute_script(f"return {script}")

    def requests(self) -> set[str]:
        """What has been asked for since the last time, but what a page holds itself."""
        events = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        urls = {
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        }
        return {url for url in urls if not url.startswith("data:")}

    def complaints(self) -> list[str]:
        """What was written to the console since the last time: errors, and refused content."""
        return [entry["message"] for entry in self._log("browser")]

    def _log(self, kind: str) -> list[dict[str, Any]]:
        return self._driver.get_log(kind)


@contextmanager
def browser() -> Generator[Browser]:
    """A headless Chromium."""
    options = Options()
    options.binary_location = str(CHROMIUM)
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(str(DRIVER)))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


def assert_well_shown(chromium: Browser, page: Path) -> None:
    """Assert that the page needs nothing from elsewhere, and that all of it can be seen."""
    for size in (DESKTOP, PHONE):
        for is_dark in (False, True):
            chromium.open(page, size, is_dark=is_dark)
            assert chromium.requests() == {page.as_uri()}
            assert chromium.complaints() == []
            assert chromium.ask(TOO_WIDE) <= 0, "the page is wider than its window"
            assert chromium.ask(INVISIBLE) == 0
            assert chromium.ask(WORDLESS) == 0


def texts(chromium: Browser, selector: str) -> list[str]:
    return chromium.ask(f"[...document.querySelectorAll('{selector}')].map(e => e.innerText)")
