"""The report in a real browser: at a phone's and a desk's width, in light and dark."""

from pathlib import Path
from typing import Any

import pytest

from igsp_deploy.config import ModelConfig
from igsp_train.report import make_report
from igsp_train.report.page import render
from tests.unit.train.report.made_up import make_data

SECTIONS = ["short", "tasks", "accuracy", "worst", "growth", "sharing", "choice", "convergence", "examples", "unused"]
SECTIONS += ["cost", "made"]

CONTRAST = """() => {
  const parse = text => {
    const values = text.match(/[\\d.]+/g).map(Number);
    return values.length > 3 && values[3] === 0 ? null : values.slice(0, 3);
  };
  const light = colour => {
    const f = colour.map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * f[0] + .7152 * f[1] + .0722 * f[2];
  };
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if (colour.startsWith('rgb') && parse(colour)) return parse(colour);
    }
    return [255, 255, 255];
  };
  const bad = [];
  const texts = 'p, a, th, td:not(.heat), dt, dd, li strong, li span, summary, pre, code, caption';
  for (const e of document.querySelectorAll(texts)) {
    if (!e.textContent.trim()) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) bad.push([e.tagName, e.className, e.textContent.slice(0, 30), ratio.toFixed(2)]);
  }
  return bad;
}"""
"""Texts with less contrast than WCAG AA asks for (4.5 : 1)."""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory, make_model: Any) -> dict[str, Path]:
    """A real page with images, and one with many tasks of long names."""
    root = tmp_path_factory.mktemp("report")
    model = make_model(root / "model", ModelConfig(backbone="debug", rank=2, vision_blocks=2))
    real = make_report(model, root / "real.html", images=4)
    wide = root / "wide.html"
    name = "a-name-of-a-task-as-long-as-a-name-may-be-which-is-sixty-two"
    wide.write_text(render(make_data(13, name=name, classes=100, steps=90, title="W" * 200)), encoding="utf-8")
    return {"real": real, "wide": wide}


@pytest.mark.parametrize("which", ["real", "wide"])
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (390, "light"), (1280, "light"), (1280, "dark")])
def test_the_page_is_whole_quiet_and_fits(
    reports: dict[str, Path], browser: Any, which: str, width: int, scheme: str
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    address = reports[which].as_uri()
    page.goto(address)
    for summary in page.locator("details").all():
        summary.evaluate("element => { element.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [name for name in SECTIONS if not page.locator(f"#{name}").is_visible()] == []
    assert page.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).length") == 0
    among_all = page.get_by_role("region", name="Accuracy among all classes learned so far")
    assert among_all.is_visible()
    assert among_all.evaluate("element => element.scrollWidth <= element.clientWidth") or which == "wide"
    assert page.locator("figure svg").first.bounding_box()["height"] > 100
    assert page.evaluate(CONTRAST) == []
    assert said == []
    assert [url for url in asked if url != address and not url.startswith("data:")] == []
    context.close()


def test_wide_tables_scroll_inside_their_box_and_the_task_stays_in_sight(
    reports: dict[str, Path], browser: Any
) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(reports["wide"].as_uri())
    box = page.locator("#accuracy .scroll").first
    assert box.evaluate("element => element.scrollWidth > element.clientWidth")
    head = box.locator("tbody th").first
    before = head.bounding_box()
    box.focus()
    box.evaluate("element => { element.scrollLeft = 400; }")
    assert head.bounding_box()["x"] == pytest.approx(before["x"], abs=2)
    page.close()


def test_dark_and_light_differ(reports: dict[str, Path], browser: Any) -> None:
    colours = []
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        page.goto(reports["real"].as_uri())
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        context.close()
    assert colours[0] != colours[1]
