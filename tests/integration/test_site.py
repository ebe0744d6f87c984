"""The documentation site: built strictly, complete, and without another host."""

import html
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import typer

import igsp_deploy
import igsp_serve.client
from igsp_deploy.cli.main import app
from igsp_serve.http.app import create_app
from igsp_serve.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


class Addresses(HTMLParser):
    """What a page loads (`loaded`: scripts, styles, fonts, images) and where it leads (`links`)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {key: value for key, value in attrs if value}
        if tag == "a" and "href" in named:
            self.links.append(named["href"])
        elif tag == "link" and "href" in named and named.get("rel") != "canonical":
            self.loaded.append(named["href"])
        self.loaded += [named[key] for key in ("src", "srcset", "poster", "data") if key in named]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}


def test_no_page_loads_anything_from_another_host(site: Path, pages: dict[Path, str]) -> None:
    loaded = {address for text in pages.values() for address in Addresses(text).loaded}
    assert any(address.endswith(".js") for address in loaded)
    assert {address for address in loaded if urlsplit(address).netloc} == set()
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css")) + "".join(pages.values())
    assert re.findall(r"""(?:url\(|@import)\s*["']?(?:https?:)?//""", styles) == []


def test_every_link_within_the_site_leads_to_a_file(site: Path, pages: dict[Path, str]) -> None:
    """Also those that mkdocs does not look at, as links to folders of the repository."""
    lost = set()
    for path, text in pages.items():
        for link in Addresses(text).links:
            parts = urlsplit(link)
            if path.name != "404.html" and parts.path and not parts.scheme and not parts.netloc:
                target = (path.parent / unquote(parts.path)).resolve()
                if not (target.is_file() or (target / "index.html").is_file()):
                    lost.add((path.relative_to(site).as_posix(), link))
    assert lost == set()


def test_every_document_is_a_page(site: Path) -> None:
    documents = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").glob("*.md")}
    pages = {path.parent.relative_to(site) for path in site.rglob("index.html")}
    assert documents | {Path(), Path("train"), Path("export"), Path("serve"), Path("train/RESULTS")} <= pages


def test_every_command_and_option_is_in_the_reference(site: Path) -> None:
    text = (site / "reference" / "cli" / "index.html").read_text(encoding="utf-8")
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        section = html.unescape(text.partition(f'<h2 id="igsp-{name}">')[2].partition("<h2 ")[0])
        options = [option for parameter in command.params if not parameter.hidden for option in parameter.opts]
        assert section, name
        assert {option for option in options if option.startswith("-")} <= set(re.split(r"[\s,/<>]+", section)), name


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    text = (site / "reference" / "api" / "index.html").read_text(encoding="utf-8")
    public = {"igsp_deploy.doors.Model", "igsp_deploy.runtime.classifier.Classifier"}
    public |= {f"igsp_serve.client.{name}" for name in igsp_serve.client.__all__}
    assert {name for name in public if f'id="{name}"' not in text} == set()
    assert set(igsp_deploy.__all__) <= {name.rpartition(".")[2] for name in public} | {"__version__"}


def test_every_route_of_the_server_is_in_the_reference(site: Path, bundled: Any) -> None:
    text = html.unescape((site / "reference" / "http" / "index.html").read_text(encoding="utf-8"))
    served = create_app(bundled.bundle, Settings(provider="cpu")).openapi()["paths"]
    calls = {f"{method.upper()} {path}" for path, methods in served.items() for method in methods}
    assert len(calls) > 10
    assert set(re.findall(r"<code>([A-Z]+ /[^<]*)</code>", text)) == calls


def test_the_search_finds_the_pages(site: Path) -> None:
    found = {entry["location"] for entry in json.loads((site / "search" / "search_index.json").read_text())["docs"]}
    assert {"tutorial/", "howto/", "reference/cli/#igsp-train", "reference/http/"} <= found
