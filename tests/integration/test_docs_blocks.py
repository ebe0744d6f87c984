"""The worked examples of the documents, run block by block as they stand there."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import igsp_deploy as igsp
from tests.integration.docs_text import ROOT, blocks
from tests.load.process import serving


def run_blocks(document: Path, names: dict[str, Any], folder: Path) -> int:
    """Run a document's blocks in order in `folder`; Python blocks share `names`. Returns how many there were."""
    count = 0
    for block in blocks(document):
        where = f"{document.name}:{block.line}"
        if block.language == "python":
            # Lines keep their numbers, so that a traceback points into the document.
            code = compile("\n" * (block.line - 1) + block.text, str(document), "exec")
            exec(code, names)
        elif block.language == "sh":
            done = subprocess.run(
                [
                    "bash",
                    "-euo",
                    "pipefail",
                    "-c",
                    f"igsp() {{ '{sys.executable}' -m igsp_deploy.cli.main \"$@\"; }}\n" + block.text,
                ],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=240,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            assert done.returncode == 0, f"{where}\n{done.stdout}\n{done.stderr}"
        else:
            continue
        count += 1
    return count


def test_the_tutorial_goes_from_pictures_to_a_served_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_blocks(ROOT / "docs" / "tutorial.md", {}, tmp_path) == 10
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "colors" in page
    assert (tmp_path / "bundle" / "manifest.json").is_file()


def test_python_learns_measures_exports_classifies_and_asks(
    bundled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(bundled.data)
    with serving(bundled.bundle, tmp_path / "server") as server:
        assert run_blocks(ROOT / "docs" / "python.md", {"url": server.url}, tmp_path) == 6
    printed = capfd.readouterr()
    assert "learned" not in printed.err, "quiet unless asked"
    # The model behind the server knows nothing: its experts are random.
    image = bundled.data / "colors" / "test" / "red" / "10.png"
    assert printed.out.splitlines()[-1] == igsp.Classifier(bundled.bundle).classify(image, task="colors").labels[0]


def test_every_seam_has_an_example_that_works(bundled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_blocks(ROOT / "docs" / "extending.md", {"bundle": bundled.bundle}, tmp_path) == 7


def test_a_backbone_a_source_and_a_method_come_in_a_package_of_others(bundled: Any, tmp_path: Path) -> None:
    """Its parts are blocks of the document; it is built and installed into a folder of its own."""
    found = blocks(ROOT / "docs" / "extending.md")
    (project,) = [block.text for block in found if block.language == "toml"]
    wanted = ("mine = NamedBackbone(", "class ArraySource", "nearest_mean = ")
    parts = [block.text for block in found if any(part in block.text for part in wanted)]
    assert len(parts) == len(wanted)
    package = tmp_path / "igsp-mine"
    package.mkdir()
    (package / "pyproject.toml").write_text(project)
    (package / "igsp_mine.py").write_text("\n".join(parts))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(tmp_path / "site"), str(package)], check=True, timeout=300)
    (tmp_path / "data").symlink_to(bundled.data)
    tones = np.random.default_rng(0).integers(0, 100, (40, 40, 40, 3), dtype=np.uint8)
    tones[20:] += 155
    np.savez(tmp_path / "tones.npz", images=tones, labels=np.repeat([0, 1], 20), classes=np.array(["dark", "light"]))

    def igsp(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "igsp_deploy.cli.main", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path / "site")},
        )

    small = ["--set", "model.backbone=mine", "--set", "learn.steps=5"]
    tasks = ["--task", "tones=npz:./tones.npz", "--task", "colors=data/colors"]
    done = igsp("compare", "study", *tasks, *small, "--method", "nearest-mean", "--csv", "rows.csv")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "rows.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["method"] == "nearest-mean"
    assert float(row["last"]) > 60
    done = igsp("train", "model", *tasks[:2], *small)
    assert done.returncode == 0, done.stderr
    (record,) = (tmp_path / "model" / "tasks").glob("*/task.json")
    assert json.loads(record.read_text())["classes"] == ["dark", "light"]
    assert json.loads((tmp_path / "model" / "config.json").read_text())["backbone"]["name"] == "mine"
    done = igsp("backbones", "--json")
    assert json.loads(done.stdout)[-1]["what_for"] == "our own, of our own pictures"


def test_a_block_that_fails_fails_the_test(tmp_path: Path) -> None:
    document = tmp_path / "d.md"
    document.write_text("# D\n\n```python\nassert 1 == 2\n```\n")
    with pytest.raises(AssertionError):
        run_blocks(document, {}, tmp_path)
    document.write_text("```sh\nigsp fly\n```\n")
    with pytest.raises(AssertionError, match="fly"):
        run_blocks(document, {}, tmp_path)
