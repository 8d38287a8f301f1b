"""Pictures of a deployment's pages for the docs: `FLOCK_RAY_KEY=fr-… python -m tests.market.pictures URL`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

DOCS = Path(__file__).parents[2] / "docs"
QUESTION = "Write a Python function that reads a JSON file and returns its keys, sorted."
MILLISECONDS = 120_000


def take(url: str, key: str) -> None:
    """Write docs/models.png and docs/playground.png."""
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        page = browser.new_page(base_url=url, viewport={"width": 1_000, "height": 900})
        page.set_default_timeout(MILLISECONDS)
        page.goto("/playground")
        page.get_by_label("Key (kept in this tab only)").fill(key)
        page.get_by_label("and the base model beside it").check()
        page.get_by_label("Most tokens").fill("64")
        page.get_by_label("Message").fill(QUESTION)
        page.get_by_role("button", name="Send", exact=True).click()
        expect(page.get_by_role("button", name="Correct it")).to_have_count(2, timeout=MILLISECONDS)
        page.get_by_role("button", name="Correct it").first.click()
        page.screenshot(path=DOCS / "playground.png", full_page=True)
        page.goto("/")
        page.locator(".cards a").first.click()
        page.screenshot(path=DOCS / "models.png")
        browser.close()


if __name__ == "__main__":
    take(sys.argv[1], os.environ["FLOCK_RAY_KEY"])
