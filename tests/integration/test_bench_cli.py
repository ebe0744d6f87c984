"""`igsp bench` as a command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.conftest import Bundled


Igsp = Callable[..., Any]


def test_bench_prints_json_and_writes_its_report(bundled: "Bundled", igsp: Igsp, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = igsp("bench", bundled.bundle, "--batch", 1, "--batch", 2, "--rounds", 2, "--json", "--out", out)
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert {m["batch"] for m in values["measurements"]} == {1, 2}
    assert values["machine"]["provider"] == "CPUExecutionProvider"
    assert json.loads((out / "bench.json").read_text()) == values
    assert (out / "bench.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "bench.md").read_text()
    assert "| one named task | 2 |" in page
    assert "onnxruntime" in page


def test_bench_table_is_headed_by_the_machine(bundled: "Bundled", igsp: Igsp) -> None:
    done = igsp("bench", bundled.bundle, "--batch", 1, "--rounds", 1, "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert "1 threads" in done.stdout.splitlines()[0]
    assert "task chosen" in done.stdout


def test_wrong_commands_end_in_one_line(bundled: "Bundled", igsp: Igsp, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    wrong: list[tuple[list[object], int, str]] = [
        ([bundled.bundle, "--batch", 0], 2, "--batch must be at least 1, got 0"),
        ([bundled.bundle, "--provider", "tpu"], 2, "--provider must be one of"),
        ([bundled.bundle, "--rounds", 1, "--seconds", 1], 2, "exclude each other"),
        ([bundled.bundle, "--out", tmp_path / "file"], 2, "must be a folder"),
        ([tmp_path / "none"], 1, "is not a bundle"),
    ]
    for arguments, code, message in wrong:
        done = igsp("bench", *arguments)
        assert done.returncode == code, done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stdout == ""
