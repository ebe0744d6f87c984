"""The functions of the tab where one image is classified, called as the page calls them."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from igsp_deploy.runtime.classifier import Classifier
from igsp_serve.demo.backend import ClassifierBackend
from igsp_serve.demo.page import build_demo
from igsp_serve.demo.uploads import new_file

if TYPE_CHECKING:
    from tests.conftest import Bundled

Ask = Callable[..., Awaitable[tuple[str, Any]]]


@pytest.fixture(scope="module")
def backend(bundled: "Bundled") -> ClassifierBackend:
    return ClassifierBackend(Classifier.open(bundled.bundle, "cpu", num_threads=1))


@pytest.fixture(scope="module")
def demo(backend: ClassifierBackend) -> Any:
    async def build() -> Any:
        return build_demo(backend)

    # Where no loop runs Gradio makes one, and never closes it.
    return asyncio.run(build())


@pytest.fixture(scope="module")
def functions(demo: Any) -> dict[str, Any]:
    """The tab's functions by name."""
    return {str(one.name): one for one in demo.fns.values()}


@pytest.fixture(scope="module")
def upload(bundled: "Bundled") -> dict[str, str]:
    return uploaded("photo.png", bundled.images("colors")[0].read_bytes())


def uploaded(name: str, content: bytes) -> dict[str, str]:
    path: Path = new_file(name)
    path.write_bytes(content)
    return {"path": str(path)}


def asked(functions: dict[str, Any], name: str, payload: Any, *question: str) -> tuple[str, bool]:
    """What one answers: HTML, and whether there is something to explain."""
    values = [*question, *("auto", "task", "", "{}")[len(question) :]]
    html, button = asyncio.run(functions[name].fn(payload, *values))
    return html, button.visible


def test_an_answer_comes_with_its_explanation(functions: dict[str, Any], upload: dict[str, str]) -> None:
    html, more = asked(functions, "on_explain", upload, "stripes")
    assert more
    assert "task <b>stripes</b>, given by you" in html
    assert html.count('src="data:image/png;base64,') == 1
    assert "<img" not in asked(functions, "on_question", upload)[0]


@pytest.mark.parametrize("name", ["on_question", "on_explain"])
def test_what_is_wrong_is_told_in_the_same_words(
    functions: dict[str, Any], upload: dict[str, str], tmp_path: Path, name: str
) -> None:
    (tmp_path / "elsewhere.png").write_bytes(Path(upload["path"]).read_bytes())
    for payload, question, said in (
        (None, (), "Give an image first"),
        (uploaded("x.png", b"Dear image"), (), "not an image of a known format"),
        ({"path": str(tmp_path / "elsewhere.png")}, (), "not a file that was uploaded here"),
        (upload, ("colour",), "Did you mean"),
        (upload, ("auto", "own", " "), "Write at least one label"),
    ):
        html, more = asked(functions, name, payload, *question)
        assert said in html
        assert not more


def test_one_word_is_answered_and_why_it_cannot_be_explained_is_told(
    functions: dict[str, Any], upload: dict[str, str]
) -> None:
    html, _ = asked(functions, "on_explain", upload, "auto", "own", "cat")
    assert 'class="igsp-answer"' in html
    assert 'role="alert">there is one label only' in html
    assert "<img" not in html


def test_explanations_come_one_after_the_other_and_others_are_answered_meanwhile(
    functions: dict[str, Any], upload: dict[str, str], backend: ClassifierBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where Gradio's queue is gone around."""
    now, most, whole = 0, 0, backend.classify_pixels

    async def counted(*arguments: Any) -> Any:
        nonlocal now, most
        now += 1
        most = max(most, now)
        while not answered:
            await asyncio.sleep(0.01)
        try:
            return await whole(*arguments)
        finally:
            now -= 1

    async def crowd() -> list[Any]:
        values = [upload, "auto", "task", "", "{}"]
        explaining = [asyncio.create_task(functions["on_explain"].fn(*values)) for _ in range(4)]
        while not now:
            await asyncio.sleep(0.01)
        answered.append((await functions["on_question"].fn(*values))[0])
        return await asyncio.gather(*explaining)

    answered: list[str] = []
    monkeypatch.setattr(backend, "classify_pixels", counted)
    pages = asyncio.run(crowd())
    assert "igsp-answer" in answered[0]
    assert ["data:image/png" in html for html, _ in pages] == [True] * 4
    assert most == 1


def test_a_new_question_calls_off_an_explanation_that_is_on_its_way(demo: Any, functions: dict[str, Any]) -> None:
    """Else it would take the place of the new answer."""
    explain = functions["on_explain"]
    assert explain.concurrency_limit == 1
    calls_off = {target for one in demo.fns.values() if explain._id in one.cancels for target in one.targets}
    assert calls_off == {*functions["on_question"].targets, *functions["on_change"].targets}
    assert len(calls_off) == 4
