"""`python -m tests.browser.screenshots`: the documents' pictures of the demo, made from what `igsp quickstart` leaves.

    igsp quickstart && python -m tests.browser.screenshots --quickstart quickstart-out --out docs/images

While the teaching page is photographed a task is being learned in a copy of the model, and cancelled afterwards.
"""

import argparse
import io
import shutil
import tempfile
import zipfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.browser.chromium import chromium
from tests.browser.site import open_tab, running_demo

LARGEST_BYTES = 200_000
SHAPES = {"desktop": (1280, 860), "phone": (390, 844)}
NEW_TASK = ("letters", ("A", "B", "C", "D"))
"""Task and classes of the quickstart that are taught once more, under another name."""


def main() -> None:
    """Make all pictures."""
    parser = argparse.ArgumentParser(prog="python -m tests.browser.screenshots")
    parser.add_argument("--quickstart", type=Path, default=Path("quickstart-out"), help="folder `igsp quickstart` made")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copytree(options.quickstart / "bundle", folder / "bundle")
        shutil.copytree(options.quickstart / "model", folder / "model")
        # The accuracies that the quickstart has measured.
        shutil.copy(options.quickstart / "bundle.evaluation.json", folder)
        lesson = pack(options.quickstart / "data" / NEW_TASK[0] / "train", folder / "lesson.zip")
        arguments = ["demo", folder / "bundle", "--model", folder / "model", "--teach", "--port", 0]
        with running_demo(arguments) as url, chromium() as browser:
            photograph(browser, url, lesson, some_images(options.quickstart / "data", folder), options.out)


def pack(source: Path, target: Path) -> Path:
    """A zip of some class folders."""
    with zipfile.ZipFile(target, "w") as archive:
        for label in NEW_TASK[1]:
            for file in sorted((source / label).iterdir()):
                archive.write(file, f"{label}/{file.name}")
    return target


def some_images(data: Path, folder: Path) -> list[Path]:
    """Seven test images of all tasks, called after their classes."""
    found = sorted(data.glob("*/test/*/000.png"))
    return [
        Path(shutil.copy(path, folder / f"{path.parents[2].name}-{path.parent.name}.png"))
        for path in found[:: len(found) // 7][:7]
    ]


def photograph(browser: Browser, url: str, lesson: Path, images: list[Path], out: Path) -> None:
    """Every page in both shapes and both schemes."""
    for shape, (width, height) in SHAPES.items():
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme="dark" if scheme == "dark" else "light",
                device_scale_factor=1 if shape == "desktop" else 1.5,
            )
            page = context.new_page()
            page.goto(url)
            page.locator("#examples button").first.click()
            expect(page.locator(".igsp-answer")).to_be_visible(timeout=240_000)
            page.mouse.move(0, 0)  # else the example that comes to lie under it is framed
            page.wait_for_timeout(700)
            save(page, out / f"classify-{shape}-{scheme}.png")
            open_tab(page, "Learned")
            page.wait_for_timeout(700)
            save(page, out / f"learned-{shape}-{scheme}.png")
            if (shape, scheme) == ("desktop", "light"):
                batch(page, images, out / "batch-desktop-light.png")
                teach(page, lesson, out / "teach-desktop-light.png")
            context.close()


def batch(page: Page, images: list[Path], path: Path) -> None:
    """Many images at once."""
    open_tab(page, "Batch")
    page.locator("#batch-files input[type=file]").set_input_files(images)
    page.get_by_role("button", name="Classify all").click()
    expect(page.locator(".igsp-table tbody tr")).to_have_count(len(images), timeout=240_000)
    page.wait_for_timeout(700)
    save(page, path)


def teach(page: Page, lesson: Path, path: Path) -> None:
    """A lesson on its way."""
    open_tab(page, "Teach")
    page.locator("#teach-name input, #teach-name textarea").first.fill("four-letters")
    page.locator("#teach-zip input[type=file]").set_input_files(lesson)
    expect(page.locator("#teach-zip")).to_contain_text("lesson")
    page.locator("#teach-start").click()
    expect(page.locator(".igsp-lesson")).to_contain_text("Phase 2", timeout=240_000)
    page.wait_for_timeout(5000)
    save(page, path)
    page.locator("#teach-cancel").click()
    expect(page.locator("#teach-progress")).to_contain_text("was cancelled", timeout=120_000)


def save(page: Page, path: Path) -> None:
    """What is seen, with as many colours as fit into the size allowed."""
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    for colors in (256, 128, 64):
        shot.quantize(colors, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size < LARGEST_BYTES:
            break
    print(f"{path}  {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
