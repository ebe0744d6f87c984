"""`python -m tests.bench.pasting BUNDLE`: how long class names take to come into the demo's box of words, in chromium.

Pasted from the clipboard, as people do; and line by line, as programs that drive a browser put text into a box, beside
a bare box on an empty page, which is what the browser itself takes. Seconds until the names are there and painted,
median of some rounds; and how often the browser laid out the page for it.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page

from tests.browser.chromium import chromium
from tests.browser.site import running_demo

BOX = "#words textarea"
BARE = "<textarea rows=6></textarea>"
PAINTED = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
PATIENCE_MS = 600_000


def paste(page: Page, box: str, text: str) -> None:
    """From the clipboard, in the place of what is in the box."""
    page.evaluate("text => navigator.clipboard.writeText(text)", text)
    page.locator(box).press("Control+a")
    page.locator(box).press("Control+v")
    holds = "([box, text]) => document.querySelector(box).value === text"
    page.wait_for_function(holds, arg=[box, text], timeout=PATIENCE_MS)


def put_line_by_line(page: Page, box: str, text: str) -> None:
    """Each line is an event of its own."""
    page.locator(box).fill("")
    page.locator(box).focus()
    page.keyboard.insert_text(text)


def layouts(page: Page, work: Callable[[], None]) -> int:
    """How often the browser lays out the page during `work`."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def count() -> int:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(int(one["value"]) for one in metrics if one["name"] == "LayoutCount")

    before = count()
    work()
    page.evaluate(PAINTED)
    return count() - before


def show_words(page: Page) -> None:
    """The box of words on the demo's page."""
    page.get_by_role("radio", name="My own words").check()
    page.locator(BOX).click()


def main(words: list[str] | None = None) -> None:
    """Print all three."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pasting", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--names", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(words)
    text = "\n".join(f"class {number}" for number in range(given.names))

    def measure(what: str, page: Page, box: str, work: Callable[[Page, str, str], None]) -> None:
        seconds, counts = [], []
        for _ in range(given.rounds):
            start = time.perf_counter()
            counts.append(layouts(page, lambda: work(page, box, text)))
            seconds.append(time.perf_counter() - start)
        median = statistics.median(seconds)
        print(
            f"{given.names:,} names {what}: {median:.2f} s, {counts[-1]} layouts (median of {given.rounds})", flush=True
        )

    with running_demo(["demo", given.bundle, "--port", 0]) as url, chromium() as browser:
        page = browser.new_context(permissions=["clipboard-read", "clipboard-write"]).new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(url)
        show_words(page)
        measure("pasted into the demo", page, BOX, paste)
        measure("put into the demo line by line", page, BOX, put_line_by_line)
        page.goto("about:blank")
        page.set_content(BARE)
        measure("put into a bare box line by line", page, "textarea", put_line_by_line)


if __name__ == "__main__":
    main()
