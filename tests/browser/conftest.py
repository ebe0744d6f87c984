"""One running demo and one browser for all tests of this folder."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.chromium import chromium
from tests.browser.site import Watched, running_demo

if TYPE_CHECKING:
    from tests.conftest import Bundled

TIMEOUT_MS = 60_000


@dataclass(frozen=True, kw_only=True)
class Site:
    """A running demo with its own copy of a model and a bundle."""

    url: str
    model: Path
    folder: Path


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """For this folder's tests alone: while its loop runs, no other test could start an event loop."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def site(bundled: "Bundled", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("demo")
    shutil.copytree(bundled.bundle, folder / "bundle")
    shutil.copytree(bundled.model, folder / "model")
    arguments = ["demo", folder / "bundle", "--model", folder / "model", "--teach", "--port", 0]
    with running_demo(arguments) as url:
        yield Site(url=url, model=folder / "model", folder=folder)


def watched_page(browser: Browser, site: Site, width: int, height: int) -> Iterator[Page]:
    """A page that fails its test for a console error or a request to another host."""
    context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    watched = Watched(page, site.url)
    page.goto(site.url)
    page.locator("#answer").wait_for()
    yield page
    context.close()
    watched.check()


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    """The page on a desktop."""
    yield from watched_page(browser, site, 1280, 900)


@pytest.fixture
def phone(browser: Browser, site: Site) -> Iterator[Page]:
    """The page on a phone."""
    yield from watched_page(browser, site, 390, 844)
