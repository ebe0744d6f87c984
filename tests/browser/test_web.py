"""The folder of `igsp export --web` in a real browser and in node, beside `igsp predict`."""

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from igsp_deploy.bundle.preprocess import load_image
from igsp_export.web import write_web
from tests.browser.site import Watched

if TYPE_CHECKING:
    from tests.conftest import Bundled

Igsp = Callable[..., Any]

MODULES = Path(__file__).parent / "node_modules"
ROOT = Path(__file__).parents[2]
ORT = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
COUNT = 100
TOLERANCE = 0.01
"""Of a probability: decoders of pictures and the filter that shrinks them round in other ways here and there."""


@pytest.fixture(scope="session")
def modules() -> Path:
    assert (MODULES / ".installed").exists(), f"{MODULES} is missing. Install it: `make browser`."
    return MODULES


@pytest.fixture(scope="session")
def folder(bundled: "Bundled", modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The written folder, with onnxruntime-web where its README says."""
    out = tmp_path_factory.mktemp("web") / "web"
    write_web(bundled.bundle, out)
    (out / "ort").mkdir()
    for name in ORT:
        shutil.copyfile(modules / "onnxruntime-web" / "dist" / name, out / "ort" / name)
    return out


@pytest.fixture(scope="session")
def pictures(bundled: "Bundled", tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A hundred: all of the two tasks, and the first ones in other sizes, formats and turns."""
    out = tmp_path_factory.mktemp("pictures")
    files = sorted(bundled.data.rglob("*.png"))
    random, turned = np.random.default_rng(0), Image.Exif()
    checker = (np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(checker).save(out / "of-no-task.png")
    for number in range(COUNT - len(files) - 1):
        picture = load_image(files[number * len(files) // COUNT])
        picture = picture.resize(tuple(random.integers(20, 300, 2).tolist()))
        turned[0x0112] = 1 + number % 8
        match number % 3:
            case 0:
                picture.save(out / f"{number}.jpg", quality=90, exif=turned)
            case 1:
                picture.putalpha(Image.fromarray(random.integers(0, 256, picture.size[::-1], np.uint8)))
                picture.save(out / f"{number}.png")
            case 2:
                picture.convert("L").save(out / f"{number}.webp", lossless=True)
    for number, file in enumerate(files):
        shutil.copyfile(file, out / f"task-{number}.png")
    found = sorted(out.iterdir())
    assert len(found) == COUNT
    return found


@pytest.fixture(scope="session")
def expected(bundled: "Bundled", pictures: list[Path], igsp: Igsp) -> dict[str, dict[str, Any]]:
    """What `igsp predict` says, by file name."""
    told = igsp("predict", bundled.bundle, *pictures, "--provider", "cpu", "--json")
    assert told.returncode == 0, told.stderr
    return {Path(entry["image"]).name: entry for entry in json.loads(told.stdout)}


def assert_same(name: str, task: str | None, label: str, score: float, expected: dict[str, dict[str, Any]]) -> None:
    entry = expected[name]
    assert (task, label) == (entry["task"], entry["predictions"][0]["label"]), name
    assert score == pytest.approx(entry["predictions"][0]["score"], abs=TOLERANCE), name


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def opened(browser: Browser, address: str) -> Iterator[Page]:
    """The page, which asks no other host and complains of nothing."""
    context = browser.new_context(viewport={"width": 320, "height": 640})
    context.set_default_timeout(120_000)
    page = context.new_page()
    watched = Watched(page, address)
    page.goto(address)
    expect(page.locator("#state")).to_have_text("Ready.", timeout=120_000)
    yield page
    context.close()
    watched.check()


def test_a_browser_says_what_predict_says(
    opened: Page, pictures: list[Path], expected: dict[str, dict[str, Any]]
) -> None:
    opened.set_input_files("#files", pictures)
    expect(opened.locator("#state")).to_have_text(f"{COUNT} pictures done.", timeout=240_000)
    rows = opened.locator("#results li").evaluate_all("rows => rows.map((row) => ({ ...row.dataset }))")
    assert [row["file"] for row in rows] == [path.name for path in pictures]
    for row in rows:
        assert_same(row["file"], row["task"] or None, row["label"], float(row["score"]), expected)
    assert {entry["task"] for entry in expected.values()} == {None, "colors", "stripes"}
    assert opened.evaluate("document.documentElement.scrollWidth") <= 320


def test_the_page_takes_a_named_task_and_says_what_it_cannot_read(
    opened: Page, pictures: list[Path], bundled: "Bundled", igsp: Igsp, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    opened.select_option("#task", "stripes")
    opened.set_input_files("#files", [pictures[0], tmp_path / "broken.png"])
    expect(opened.locator("#state")).to_have_text("2 pictures done.")
    good, bad = opened.locator("#results li").evaluate_all("rows => rows.map((row) => ({ ...row.dataset }))")
    told = igsp("predict", bundled.bundle, pictures[0], "--task", "stripes", "--provider", "cpu", "--json")
    (entry,) = json.loads(told.stdout)
    assert_same(good["file"], good["task"], good["label"], float(good["score"]), {good["file"]: entry})
    assert "label" not in bad
    expect(opened.locator("#results li").nth(1)).to_contain_text("broken.png")
    expect(opened.locator("#results li").nth(1)).to_contain_text("cannot be classified")


def test_a_page_without_onnxruntime_says_what_is_missing(browser: Browser, folder: Path, address: str) -> None:
    (folder / "ort").rename(folder / "away")
    try:
        page = browser.new_page()
        page.goto(address)
        expect(page.locator("#state")).to_contain_text("onnxruntime-web is missing in the folder ort; README.md says")
        page.close()
    finally:
        (folder / "away").rename(folder / "ort")


def test_the_sample_for_node_in_the_docs_says_what_predict_says(
    folder: Path, modules: Path, pictures: list[Path], expected: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    text = (ROOT / "export" / "README.md").read_text()
    blocks = re.findall(r"(?:^    .*\n|^\n)+", text, re.MULTILINE)
    (sample,) = [block for block in blocks if 'from "onnxruntime-node"' in block]
    (tmp_path / "sample.mjs").write_text(re.sub("^    ", "", sample, flags=re.MULTILINE))
    (tmp_path / "node_modules").symlink_to(modules)
    (tmp_path / "web").symlink_to(folder)
    done = subprocess.run(
        ["node", "sample.mjs", *pictures], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == COUNT
    for line in lines:
        assert_same(Path(line["file"]).name, line["task"], line["label"], line["score"], expected)
