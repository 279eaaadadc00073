"""A page of Debian's Chromium, for tests under the mark `browser`."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, sync_playwright


@contextmanager
def chromium_page() -> Iterator[Page]:
    """An empty page that can download."""
    browser = shutil.which("chromium")
    assert browser is not None, "these tests need Debian's chromium"
    with sync_playwright() as playwright:
        # Chromium's sandbox wants rights that a container does not give.
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = opened.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(60_000)
        yield page
        opened.close()
