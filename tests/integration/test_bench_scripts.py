"""The scripts behind the tables of export/README.md run, and say what they measured."""

import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from igsp_deploy.errors import UserError
from igsp_export.bench.report import write_report
from igsp_export.bench.run import run_bench
from tests.bench import int8_gain, picture, task_sizes

if TYPE_CHECKING:
    from tests.conftest import Bundled


def test_a_task_that_shares_takes_less(capsys: pytest.CaptureFixture[str]) -> None:
    task_sizes.main(["--backbone", "debug", "--tasks", "4", "--experts", "4", "--rank", "2", "--classes", "3"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| both", "| image"))]
    full, half = ([float(line.split("|")[column]) for line in lines] for column in (2, 3))
    assert len(full) == 4
    alone, image_only, some, few = full
    assert alone > some > few > 0
    assert alone > image_only > 0
    assert all(0.4 * a < b < a for a, b in zip(full, half, strict=True))


def test_int8_is_measured_on_the_tasks_own_images(
    bundled: "Bundled", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "int8.json"
    int8_gain.main([str(bundled.model), "--batch", "2", "--rounds", "2", "--threads", "1", "--out", str(out)])
    printed = capsys.readouterr().out
    assert re.search(r"\| colors \| 8 test images \| [\d.]+ \| [\d.]+ \| [\d.]+ \| 0 \| 0 \| 0\.99\d+ \|", printed)
    values = json.loads(out.read_text())
    assert values["size_bytes"]["image int8"] < values["size_bytes"]["image fp32"]
    assert values["latency"][0]["int8_ms"] > 0
    assert values["parity"]["int8"]["tasks"]["stripes"]["images"] == 8


def test_int8_of_no_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        int8_gain.main([str(tmp_path / "none")])
    assert stopped.value.code == 1
    assert "not a model folder" in capsys.readouterr().err


def test_runs_of_several_batch_sizes_make_one_picture(
    bundled: "Bundled", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [run_bench(bundled.bundle, batches=(batch,), rounds=2, threads=1) for batch in (2, 1)]
    for number, run in enumerate(runs):
        write_report(run, tmp_path / str(number))
    assert picture.read_bench(tmp_path / "0/bench.json") == runs[0]
    files = [str(tmp_path / f"{number}/bench.json") for number in range(2)]
    picture.main([str(tmp_path / "bench.png"), *files])
    content = (tmp_path / "bench.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) < 150_000
    sizes = re.findall(r"\| task chosen \| (\d)", capsys.readouterr().out)
    assert sizes == ["1", "2"]
    with pytest.raises(UserError, match="share a batch size"):
        picture.join([runs[0], runs[0]])
    with pytest.raises(UserError, match="differ in precision: fp32 and int8"):
        picture.join([runs[0], dataclasses.replace(runs[1], precision="int8")])
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UserError, match=r"other\.json is not a bench\.json"):
        picture.read_bench(tmp_path / "other.json")
