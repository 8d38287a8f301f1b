"""Pages as tests read them."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.waiting import PATIENCE


class Page(HTMLParser):
    """Ids, loaded resources and cells of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.resources: list[str] = []
        self.tags: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href") and not (value or "").startswith("#"):
                self.resources.append(f"{tag} {name}={value}")


def require_narrow(html: str, folder: Path) -> None:
    """Check that a page fits 420 px: charts keep their size, and what is wider than the page scrolls inside it."""
    assert re.search(r"figure svg \{[^}]*min-width: (\d+)px", html)
    assert re.search(r"figure \{[^}]*overflow-x: auto", html)
    assert html.count('<div class="wide"><table>') == html.count("<table>")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium: its layout is not measured, only the rules are looked at")
    script = "<script>document.title = document.documentElement.scrollWidth</script>"
    (folder / "measured.html").write_text(html.replace("</body>", f"{script}</body>"))
    frame = folder / "frame.html"
    frame.write_text('<iframe src="measured.html" width="420" height="800" style="border:0"></iframe>'
                     "<script>onload = () => { document.title = frames[0].document.title }</script>")  # fmt: skip
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom",
         "--virtual-time-budget=5000", f"--user-data-dir={folder}/profile", frame.as_uri()],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    found = re.search(r"<title>(\d+)</title>", done.stdout)
    assert found and int(found[1]) <= 420, done.stderr[-500:]
