"""A demo that is killed while it teaches: its worker ends, and the next start clears what it left."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.browser.site import running_demo
from tests.integration.demo_calls import Demo

if TYPE_CHECKING:
    from tests.conftest import Bundled

PATIENCE_S = 180.0
META = {"_type": "gradio.FileData"}


def children(pid: int) -> list[int]:
    """Processes that a process has started, by any of its threads."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (thread / "children").read_text().split())
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(what: Any) -> None:
    end = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_killed_lesson_leaves_nothing_behind(bundled: "Bundled", lesson_zip: Path, tmp_path: Path) -> None:
    shutil.copytree(bundled.bundle, tmp_path / "bundle")
    shutil.copytree(bundled.model, tmp_path / "model")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    arguments = ["demo", tmp_path / "bundle", "--model", tmp_path / "model", "--teach", "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "igsp_deploy.cli.main", *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_PROXY": "*"},
    )
    try:
        assert process.stdout is not None
        demo = Demo(process.stdout.readline().strip())
        events = {event.name: event for event in demo.events()}
        archive = {"path": demo.upload("hues.zip", lesson_zip.read_bytes()), "meta": META}
        lessons = []
        for name, steps in (("long", 5000), ("waiting", 5)):
            begun = demo.join(events["teach"], [archive, name, "", "a photo of a {}.", steps])
            assert begun["success"], begun
            lessons.append(begun["output"]["data"][0]["lesson"])
        wait_for(lambda: demo.join(events["lesson"], [lessons[0]])["output"]["data"][0]["step"] > 0)
        workers = children(process.pid)
        assert workers
        demo.close()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
    assert (tmp_path / "model-taught" / "long").is_dir()
    wait_for(lambda: not any(map(is_alive, workers)))
    with running_demo(arguments) as url:
        demo = Demo(url)
        events = {event.name: event for event in demo.events()}
        assert [task["name"] for task in demo.join(events["tasks"], [])["output"]["data"][0]] == ["colors", "stripes"]
        demo.close()
        left = [path for path in tmp_path.rglob("*") if str(path) not in before and ".lock" not in path.name]
        assert left == [tmp_path / "model-taught"]
