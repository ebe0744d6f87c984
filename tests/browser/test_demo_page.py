"""What a person sees and does on the demo's page. Console errors and requests to other hosts fail every test."""

import csv
import json
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

from tests.bench import pasting
from tests.browser.conftest import Site
from tests.browser.site import choose, open_tab

if TYPE_CHECKING:
    from tests.conftest import Bundled

SLOW_MS = 120_000
expect.set_options(timeout=90_000)


EXPLAIN = "Show the parts this answer hangs on"


def paste(page: Page, box: str, text: str) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    pasting.paste(page, box, text)


def give_image(page: Page, path: Path) -> None:
    page.locator("#image input[type=file]").set_input_files(path)


def test_the_page_says_what_it_is(page: Page) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text("One model that keeps learning")
    items = page.locator(".igsp-timeline li")
    expect(items).to_have_count(2)
    expect(items.nth(0)).to_contain_text("colors")
    expect(items.nth(1)).to_contain_text("stripes")


@pytest.mark.parametrize(("task", "folder"), [("colors", "red"), ("stripes", "steep")])
def test_an_image_is_classified_in_a_task_that_was_named(
    page: Page, bundled: "Bundled", task: str, folder: str
) -> None:
    choose(page, "task", task)
    give_image(page, bundled.data / task / "test" / folder / "10.png")
    answer = page.locator(".igsp-answer")
    expect(answer).to_contain_text(f"task {task}, given by you")
    labels = {"colors": {"red", "blue"}, "stripes": {"flat", "steep"}}[task]
    shown = answer.locator(".igsp-bars").first.locator("li > span:first-child").all_inner_texts()
    assert set(shown) == labels
    expect(answer).to_contain_text("Plain CLIP, same labels")
    expect(answer).to_contain_text(re.compile(r"\d+ ms"))


@pytest.mark.parametrize(("task", "folder"), [("colors", "blue"), ("stripes", "flat")])
def test_the_task_is_chosen_with_its_evidence(page: Page, bundled: "Bundled", task: str, folder: str) -> None:
    give_image(page, bundled.data / task / "test" / folder / "11.png")
    answer = page.locator(".igsp-answer")
    expect(answer).to_contain_text(f"task {task}, chosen by the model")
    evidence = answer.locator(".igsp-evidence li")
    expect(evidence).to_have_count(2)
    expect(evidence.first).to_contain_text(task)
    expect(evidence.first).to_contain_text("chosen")


def test_the_parts_an_answer_hangs_on_are_shown_and_go_with_it(page: Page, bundled: "Bundled") -> None:
    button, parts = page.get_by_role("button", name=EXPLAIN), page.locator(".igsp-parts")
    expect(button).to_be_hidden()
    choose(page, "task", "stripes")
    give_image(page, bundled.images("stripes")[-1])
    label = page.locator(".igsp-top strong")
    expect(page.locator(".igsp-answer")).to_contain_text("task stripes, given by you")
    button.click()
    expect(parts.locator("figcaption")).to_contain_text(
        re.compile(f"(red speaks|no single part matters) for {label.inner_text()}")
    )
    picture = parts.get_by_alt_text(re.compile(f"{label.inner_text()} less likely"))
    assert picture.evaluate("one => one.naturalWidth") == 448
    assert str(picture.get_attribute("src")).startswith("data:image/png;base64,")
    choose(page, "task", "colors")
    expect(page.locator(".igsp-answer")).to_contain_text("task colors, given by you")
    expect(parts).to_have_count(0)
    page.locator("#image").get_by_role("button", name="Clear").or_(page.get_by_label("Remove Image")).first.click()
    expect(page.locator("#answer")).to_contain_text("Give an image first")
    expect(button).to_be_hidden()


def test_an_explanation_on_its_way_does_not_come_after_a_new_answer(page: Page, bundled: "Bundled") -> None:
    give_image(page, bundled.images("colors")[0])
    expect(page.locator(".igsp-answer")).to_be_visible()
    page.get_by_role("radio", name="My own words").check()
    page.locator(pasting.BOX).fill("\n".join(f"class {number}" for number in range(1000)))
    page.get_by_role("button", name="Classify", exact=True).click()
    first = page.locator(".igsp-top strong")
    expect(first).to_contain_text("class", timeout=SLOW_MS)
    began = time.monotonic()
    page.get_by_role("button", name=EXPLAIN).click()
    expect(page.locator(".igsp-parts")).to_be_visible(timeout=SLOW_MS)
    took_s = time.monotonic() - began
    page.get_by_role("button", name=EXPLAIN).click()
    page.wait_for_timeout(200)
    page.get_by_role("radio", name="Classes of the task").check()
    expect(first).to_have_text(re.compile("red|blue"))
    page.wait_for_timeout(1000 * took_s + 500)
    expect(first).to_have_text(re.compile("red|blue"))
    expect(page.locator(".igsp-parts")).to_have_count(0)
    page.get_by_role("button", name=EXPLAIN).click()
    expect(page.locator(".igsp-parts figcaption")).to_contain_text(re.compile("for (red|blue)"))


def test_examples_are_offered_and_classified(page: Page) -> None:
    page.locator("#examples button").last.click()
    expect(page.locator(".igsp-answer")).to_contain_text("task stripes")


def test_own_words_take_the_place_of_classes(page: Page, bundled: "Bundled") -> None:
    give_image(page, bundled.images("colors")[0])
    expect(page.locator(".igsp-answer")).to_be_visible()
    page.get_by_role("radio", name="My own words").check()
    expect(page.locator("#answer")).to_contain_text("Write your own words")
    page.get_by_role("button", name="Classify", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("Write at least one label")
    page.locator("#words textarea").fill("a cat\n<b>bold {{1}} ${2}</b>\na cat")
    # By keyboard, as somebody without a mouse does.
    page.get_by_role("button", name="Classify", exact=True).focus()
    page.keyboard.press("Enter")
    labels = page.locator(".igsp-answer .igsp-bars").first.locator("li > span:first-child")
    expect(labels).to_have_count(2)
    assert set(labels.all_inner_texts()) == {"a cat", "<b>bold {{1}} ${2}</b>"}
    paste(page, pasting.BOX, "\n".join(f"word {k}" for k in range(5000)))
    page.get_by_role("button", name="Classify", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("At most 1000 labels")


def test_a_thousand_names_are_pasted_and_classified(page: Page, bundled: "Bundled") -> None:
    give_image(page, bundled.images("colors")[0])
    expect(page.locator(".igsp-answer")).to_be_visible()
    page.get_by_role("radio", name="My own words").check()
    names = [f"class {k}" for k in range(1000)]
    paste(page, pasting.BOX, "\n".join(names))
    assert page.locator(pasting.BOX).input_value().splitlines() == names
    page.get_by_role("button", name="Classify", exact=True).click()
    labels = page.locator(".igsp-answer .igsp-bars").first.locator("li > span:first-child")
    expect(labels.first).to_contain_text("class", timeout=SLOW_MS)


@pytest.mark.parametrize("box", [pasting.BOX, "#teach-words textarea"])
def test_a_line_in_a_box_costs_no_more_layouts_than_on_an_empty_page(page: Page, box: str) -> None:
    """How long each takes is the margins' matter: the next test. `tests.bench.pasting` prints the time."""
    if box == pasting.BOX:
        pasting.show_words(page)
    else:
        open_tab(page, "Teach")
        page.locator(box).click()
    lines = "\n".join(f"class {number}" for number in range(100))
    here = pasting.layouts(page, lambda: pasting.put_line_by_line(page, box, lines))
    bare = page.context.new_page()
    bare.set_content(pasting.BARE)
    there = pasting.layouts(bare, lambda: pasting.put_line_by_line(bare, "textarea", lines))
    assert 100 < there < 1000
    assert here <= there + 20


def test_the_bench_of_pasting_prints_all_three(bundled: "Bundled") -> None:
    # In a process of its own: there is a browser in this one.
    command = [sys.executable, "-m", "tests.bench.pasting", str(bundled.bundle), "--names", "30", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^30 names (.*): [\d.]+ s, (\d+) layouts", done.stdout, re.MULTILINE)
    assert [what for what, _ in found] == [
        "pasted into the demo",
        "put into the demo line by line",
        "put into a bare box line by line",
    ]


def test_the_container_has_no_automatic_margins(page: Page) -> None:
    """With them the browser lays the whole page out again for each line that is put into a box."""
    rules = page.evaluate(
        """() => {
            const box = document.querySelector('.gradio-container');
            const automatic = (style, side) =>
                style.getPropertyValue(side) === 'auto' && style.getPropertyPriority(side) === 'important';
            return [...document.styleSheets].flatMap(sheet => [...sheet.cssRules])
                .filter(rule => rule.style && box.matches(rule.selectorText))
                .filter(rule => ['margin-left', 'margin-inline-start'].some(side => automatic(rule.style, side)))
                .map(rule => rule.cssText.slice(0, 200));
        }"""
    )
    assert rules == []


def test_a_file_that_is_no_image_is_told_and_the_page_goes_on(page: Page, bundled: "Bundled", tmp_path: Path) -> None:
    (tmp_path / "letter.png").write_text("Dear image,")
    give_image(page, tmp_path / "letter.png")
    expect(page.get_by_role("alert")).to_contain_text("not an image of a known format")
    page.locator("#image").get_by_role("button", name="Clear").or_(page.get_by_label("Remove Image")).first.click()
    give_image(page, bundled.images("colors")[0])
    expect(page.locator(".igsp-answer")).to_contain_text("task colors")


def test_many_images_give_a_table_to_download(page: Page, bundled: "Bundled", tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    images = [*bundled.images("colors")[:2], *bundled.images("stripes")[:2], tmp_path / "broken.png"]
    open_tab(page, "Batch")
    page.locator("#batch-files input[type=file]").set_input_files(images)
    page.get_by_role("button", name="Classify all").click()
    table = page.locator(".igsp-table")
    expect(table).to_contain_text("4 images classified, 1 could not be read")
    expect(table.locator("tbody tr")).to_have_count(5)
    expect(table.locator("img")).to_have_count(4)
    assert table.locator("img").evaluate_all("all => all.every(one => one.naturalWidth > 0)")
    # In one line each: the column of file names leaves room for them.
    heights = table.locator("td[data-name=label] b").evaluate_all("all => all.map(b => b.getClientRects().length)")
    assert heights == [1, 1, 1, 1]
    with page.expect_download() as download:
        page.locator("#batch-download").click()
    with open(download.value.path(), encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["task"] for row in rows] == ["colors", "colors", "stripes", "stripes", ""]
    assert rows[4]["file"] == "broken.png"
    assert rows[4]["error"]


def test_what_was_learned_is_shown(page: Page) -> None:
    open_tab(page, "Learned")
    learned = page.locator("#learned")
    expect(learned.locator(".igsp-card")).to_have_count(2)
    expect(learned.locator(".igsp-card").first).to_contain_text("blue, red")
    assert learned.locator(".igsp-card").first.locator("img").count() == 2
    expect(learned).to_contain_text("4 experts, 4 new")
    expect(learned).to_contain_text("8 experts, 4 new; reused: 4 of colors")
    expect(learned).to_contain_text("igsp evaluate")


def begin_lesson(page: Page, name: str, archive: Path, steps: int) -> None:
    open_tab(page, "Teach")
    page.locator("#teach-name input, #teach-name textarea").first.fill(name)
    page.locator("#teach-zip input[type=file]").set_input_files(archive)
    expect(page.locator("#teach-zip")).to_contain_text(archive.name.removesuffix(".zip"))
    page.get_by_role("button", name="More").first.click()
    set_steps(page, steps)
    page.locator("#teach-start").click()


def set_steps(page: Page, steps: int) -> None:
    """Write the number until it stays: what opens with the accordion is drawn anew when its values arrive."""
    box = page.locator("#teach-steps input")
    for _ in range(10):
        box.fill(str(steps))
        page.wait_for_timeout(500)
        if box.input_value() == str(steps):
            return
    raise AssertionError(f"the box of the steps goes back to {box.input_value()}")


def tasks_in(model: Path) -> list[str]:
    return sorted(path.name for path in (model / "tasks").iterdir())


def test_a_lesson_survives_a_reload_and_can_be_cancelled(page: Page, site: Site, lesson_zip: Path) -> None:
    before = tasks_in(site.model)
    begin_lesson(page, "long", lesson_zip, 5000)
    running = page.locator(".igsp-lesson")
    expect(running).to_contain_text(re.compile(r"step [1-9]\d* of 5000"), timeout=SLOW_MS)
    page.reload()
    page.locator("#answer").wait_for()
    open_tab(page, "Teach")
    expect(running).to_contain_text(re.compile(r"step [1-9]\d* of 5000"))
    expect(running.locator(".igsp-curve")).to_have_count(3)
    page.locator("#teach-cancel").click()
    expect(page.locator("#teach-progress")).to_contain_text("long was cancelled", timeout=SLOW_MS)
    assert tasks_in(site.model) == before
    assert not (site.folder / "model-taught" / "long").exists()
    assert not (site.model / ".inprogress").exists()


def test_a_task_is_taught_asked_for_and_removed(page: Page, site: Site, bundled: "Bundled", lesson_zip: Path) -> None:
    begin_lesson(page, "hues", lesson_zip, 8)
    expect(page.locator("#teach-progress")).to_contain_text("hues is learned", timeout=2 * SLOW_MS)
    expect(page.locator(".igsp-timeline li")).to_have_count(3)
    assert tasks_in(site.model)[-1] == "02-hues"
    open_tab(page, "Classify")
    choose(page, "task", "hues")
    give_image(page, bundled.images("colors")[0])
    expect(page.locator(".igsp-answer")).to_contain_text("task hues, given by you")
    expect(page.locator(".igsp-answer")).to_contain_text("red-ish")
    open_tab(page, "Learned")
    expect(page.locator(".igsp-matrix tbody tr")).to_have_count(4)
    evaluation = json.loads((site.folder / "bundle.evaluation.json").read_text())
    assert evaluation["tasks"] == ["colors", "stripes", "hues"]
    open_tab(page, "Teach")
    page.get_by_role("button", name="Remove a task").click()
    choose(page, "remove-task", "hues")
    page.locator("#remove").click()
    expect(page.locator(".igsp-timeline li")).to_have_count(2)
    choose(page, "removed-tasks", "hues")
    page.locator("#put-back").click()
    expect(page.locator(".igsp-timeline li")).to_have_count(3)
    choose(page, "remove-task", "hues")
    page.locator("#remove").click()
    expect(page.locator(".igsp-timeline li")).to_have_count(2)
    assert tasks_in(site.model)[-1] == "02-hues"


def test_mistakes_of_teaching_class_by_class_are_told_in_the_pages_words(
    page: Page, bundled: "Bundled", tmp_path: Path
) -> None:
    open_tab(page, "Teach")
    open_tab(page, "Class by class")
    said = page.locator("#teach-classes").get_by_role("alert")
    name, files = page.get_by_label("Name of a class"), page.locator("#teach-files input[type=file]")
    add = page.get_by_role("button", name="Add this class")
    add.click()
    expect(said).to_contain_text("cannot be the name of a class")
    name.fill("red")
    add.click()
    expect(said).to_contain_text("Choose the images of 'red' first")
    (tmp_path / "letter.txt").write_text("Dear image,")
    files.set_input_files(tmp_path / "letter.txt")
    expect(page.locator("#teach-files")).to_contain_text("letter")
    add.click()
    expect(said).to_contain_text("letter.txt is not an image")
    page.get_by_role("button", name="Teach it these classes").click()
    told = page.locator("#teach-said").get_by_role("alert")
    expect(told).to_contain_text("Give the new task a name")
    page.locator("#teach-name input, #teach-name textarea").first.fill("mugs")
    page.get_by_role("button", name="Teach it these classes").click()
    expect(told).to_contain_text("needs at least two classes")
    page.get_by_role("button", name="More").first.click()
    set_steps(page, 1)
    page.get_by_role("button", name="Teach it these classes").click()
    expect(told).to_contain_text("Steps must be a whole number from 2")
    assert page.locator(".toast-body").count() == 0, "nothing is told in Gradio's words"


def test_a_bad_archive_is_told(page: Page, site: Site, tmp_path: Path) -> None:
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../evil/1.png", b"x")
    before = tasks_in(site.model)
    begin_lesson(page, "evil", path, 5)
    expect(page.locator("#teach-said").get_by_role("alert")).to_contain_text("names a place outside itself")
    assert tasks_in(site.model) == before


@pytest.mark.parametrize("width", [390, 320])
def test_nothing_is_wider_than_a_phone(phone: Page, bundled: "Bundled", tmp_path: Path, width: int) -> None:
    phone.set_viewport_size({"width": width, "height": 700})
    give_image(phone, bundled.images("colors")[0])
    expect(phone.locator(".igsp-answer")).to_be_visible()
    phone.get_by_role("button", name=EXPLAIN).click()
    expect(phone.locator(".igsp-parts img")).to_be_visible()
    long = tmp_path / f"IMG_{'a_long_name_' * 8}.png"
    long.write_bytes(bundled.images("colors")[0].read_bytes())
    open_tab(phone, "Batch")
    phone.locator("#batch-files input[type=file]").set_input_files(long)
    phone.get_by_role("button", name="Classify all").click()
    expect(phone.locator(".igsp-table img")).to_have_count(1)
    for name in ("Classify", "Batch", "Learned", "Teach"):
        open_tab(phone, name)
        phone.wait_for_timeout(300)
        widths = phone.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert widths[0] <= widths[1], name
        cut = phone.evaluate(
            "() => [...document.querySelectorAll('.gradio-container p, .gradio-container h1, .gradio-container h2, "
            ".gradio-container h3, .gradio-container li, .gradio-container label, .gradio-container button, "
            ".gradio-container img, .gradio-container figcaption')]"
            ".filter(e => e.offsetParent && !e.closest('.igsp-scroll')"
            " && e.getBoundingClientRect().right > innerWidth + 1)"
            ".map(e => e.outerHTML.slice(0, 120))"
        )
        assert cut == [], name


def test_every_field_has_a_name_for_screen_readers(page: Page) -> None:
    for name in ("Classify", "Batch", "Teach"):
        open_tab(page, name)
        page.wait_for_timeout(300)
        nameless = page.evaluate(
            "() => [...document.querySelectorAll('input, textarea, select, button')].filter(e => e.offsetParent && "
            "!e.labels?.length && !e.getAttribute('aria-label') && !e.getAttribute('aria-labelledby') && !e.title && "
            "!e.innerText.trim() && !e.querySelector('img[alt]:not([alt=\"\"])')).map(e => e.outerHTML.slice(0, 200))"
        )
        assert nameless == [], name
