"""The demo's named endpoints through the real client, teaching included; and the Hugging Face Space."""

import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from igsp_deploy.installed import requirement_line
from tests.browser.site import running_demo

if TYPE_CHECKING:
    from gradio_client import Client

    from tests.conftest import Bundled

os.environ["NO_PROXY"] = "*"
PATIENCE_S = 180


@pytest.fixture(scope="module")
def place(bundled: "Bundled", tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    shutil.copytree(bundled.bundle, folder / "bundle")
    shutil.copytree(bundled.model, folder / "model")
    return folder


@pytest.fixture(scope="module")
def client(place: Path) -> "Iterator[Client]":
    from gradio_client import Client

    arguments = ["demo", place / "bundle", "--model", place / "model", "--teach", "--port", 0]
    with running_demo(arguments) as url:
        yield Client(url, verbose=False, download_files=str(place / "downloads"))


def send(path: Path) -> Any:
    from gradio_client import handle_file

    return handle_file(str(path))


def wait_for(client: "Client", lesson: str, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    end = time.monotonic() + PATIENCE_S
    while not done(state := client.predict(lesson, api_name="/lesson")):
        assert time.monotonic() < end, state
        time.sleep(0.2)
    return state


def test_tasks_and_what_was_learned(client: "Client") -> None:
    tasks = client.predict(api_name="/tasks")
    assert [task["name"] for task in tasks] == ["colors", "stripes"]
    learned = client.predict(api_name="/learned")
    assert learned["shared_experts"]["stripes"] == {"colors": 4, "stripes": 4}
    assert learned["sizes"]["one_network_a_task"] == 2 * learned["sizes"]["network"]


def test_an_image_is_classified(client: "Client", bundled: "Bundled") -> None:
    image = send(bundled.images("stripes")[0])
    found = client.predict(image, api_name="/classify")
    assert found["task"] == "stripes"
    assert set(found["task_scores"]) == {"colors", "stripes"}
    assert {p["label"] for p in found["plain_clip"]} == {"flat", "steep"}
    own = client.predict(image, "colors", "own", "cat\ndog", "a {}", api_name="/classify")
    assert {p["label"] for p in own["predictions"]} == {"cat", "dog"}


def test_mistakes_are_told_in_words(client: "Client", bundled: "Bundled", tmp_path: Path) -> None:
    from gradio_client.exceptions import AppError

    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(AppError, match="not an image of a known format"):
        client.predict(send(tmp_path / "text.png"), api_name="/classify")
    with pytest.raises(AppError, match="Did you mean 'colors'"):
        client.predict(send(bundled.images("colors")[0]), "color", api_name="/classify")
    with pytest.raises(AppError, match="no lesson 'x'"):
        client.predict("x", api_name="/lesson")


def test_a_picture_of_too_many_pixels_is_told(client: "Client", tmp_path: Path) -> None:
    from gradio_client.exceptions import AppError
    from PIL import Image

    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    with pytest.raises(AppError, match=r"(?s)too large.*Scale it down"):
        client.predict(send(tmp_path / "huge.png"), api_name="/classify")


def test_a_file_of_the_server_cannot_be_asked_for(client: "Client", place: Path) -> None:
    secret = {"path": str(place / "model" / "config.json"), "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(Exception, match=r"."):
        client.submit(secret, api_name="/classify").result()


def test_many_images_give_rows_and_a_file(client: "Client", bundled: "Bundled") -> None:
    images = [send(path) for path in bundled.images("colors")[:3]]
    rows, table = client.predict(images, api_name="/classify_batch")
    assert [row["task"] for row in rows] == ["colors"] * 3
    assert Path(table).read_text().splitlines()[0].startswith("file,label,score,task")
    assert [row["unsure"] for row in rows] == [False] * 3
    rows, _ = client.predict(images[:1], min_score=1.0, api_name="/classify_batch")
    assert [row["unsure"] for row in rows] == [True]


def test_lessons_are_given_one_at_a_time_and_can_be_undone(
    client: "Client", place: Path, task_data: Path, bundled: "Bundled", tmp_path: Path
) -> None:
    path = tmp_path / "hues.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for label in ("red", "blue"):
            for file in sorted((task_data / "colors" / "train" / label).glob("*.png")):
                archive.write(file, f"{label}/{file.name}")
    tasks = place / "model" / "tasks"
    long = client.predict(send(path), "long", "", "a photo of a {}.", 5000, api_name="/teach")
    short = client.predict(send(path), "hues", "red = ruby", "the color {}.", 6, api_name="/teach")
    wait_for(client, long["lesson"], lambda state: state["step"] > 0)
    assert client.predict(short["lesson"], api_name="/lesson")["stage"] == "waiting"
    client.predict(long["lesson"], api_name="/cancel_lesson")
    assert wait_for(client, long["lesson"], lambda state: state["stage"] != "learning")["stage"] == "cancelled"
    # Cancelled while the bundle is made: the task was learned by then, and is taken back.
    wait_for(client, short["lesson"], lambda state: state["stage"] == "exporting")
    assert (tasks / "02-hues").exists()
    client.predict(short["lesson"], api_name="/cancel_lesson")
    wait_for(client, short["lesson"], lambda state: state["stage"] == "cancelled")
    # Its name is free again, and learned to the end this time.
    again = client.predict(send(path), "hues", "red = ruby", "the color {}.", 6, api_name="/teach")
    done = wait_for(client, again["lesson"], lambda state: state["stage"] in ("done", "failed"))
    assert (done["stage"], done["message"]) == ("done", "")
    assert sorted(p.name for p in tasks.iterdir()) == ["00-colors", "01-stripes", "02-hues"]
    assert not (place / "model" / ".inprogress").exists()
    assert sorted(p.name for p in place.glob("bundle-taught-*")) == [
        "bundle-taught-1",
        "bundle-taught-1.evaluation.json",
    ]
    found = client.predict(send(bundled.images("colors")[0]), "hues", api_name="/classify")
    assert found["task"] == "hues"
    assert json.loads((place / "bundle.evaluation.json").read_text())["tasks"] == ["colors", "stripes", "hues"]
    assert client.predict("hues", api_name="/remove_task") == ["colors", "stripes"]
    assert client.predict("hues", api_name="/put_back_task") == ["colors", "stripes", "hues"]


def test_a_space_starts_with_its_bundle(bundled: "Bundled", igsp: Callable[..., Any], tmp_path: Path) -> None:
    from gradio_client import Client

    space = tmp_path / "space"
    examples = bundled.data / "colors" / "test"
    result = igsp("demo", bundled.bundle, "--write-space", space, "--examples", examples)
    assert result.returncode == 0, result.stderr
    header = (space / "README.md").read_text().split("---")[1]
    assert "sdk: gradio\n" in header
    assert "app_file: app.py\n" in header
    assert (space / "requirements.txt").read_text() == requirement_line("demo,cpu") + "\n"
    assert len(list((space / "examples").iterdir())) == 8
    with running_demo(
        [], command=["-c", f"{NO_TORCH}\nrunpy.run_path({str(space / 'app.py')!r}, run_name='__main__')"]
    ) as url:
        tasks = Client(url, verbose=False).predict(api_name="/tasks")
    assert [task["name"] for task in tasks] == ["colors", "stripes"]


NO_TORCH = """
import os, runpy, sys
os.environ["PORT"] = "0"
for name in ("torch", "torchvision", "open_clip", "onnx"):
    sys.modules[name] = None
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teach"], "--teach needs the model folder"),
        (["--model", "absent"], "is not a model folder"),
        (["--evaluation", "absent.json"], "igsp evaluate MODEL --json"),
        (["--provider", "tpu"], "--provider must be one of"),
    ],
)
def test_a_wrong_command_is_told(
    bundled: "Bundled", igsp: Callable[..., Any], arguments: list[str], message: str
) -> None:
    result = igsp("demo", bundled.bundle, "--port", 0, *arguments)
    assert result.returncode in (1, 2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_the_space_is_not_written_over(bundled: "Bundled", igsp: Callable[..., Any], tmp_path: Path) -> None:
    result = igsp("demo", bundled.bundle, "--write-space", tmp_path)
    assert result.returncode == 1
    assert "exists already" in result.stderr
