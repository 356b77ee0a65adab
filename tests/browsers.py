"""A real browser, for the tests of pages."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """The Chromium of the machine, or the one that Playwright installed; skips without both."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as play:
        known = (
            os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
        )
        path = Path(known or play.chromium.executable_path)
        if not path.exists():
            pytest.skip("needs a Chromium: playwright install chromium")
        running = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()
