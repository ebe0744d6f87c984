"""`make newest` runs the tests with what is newer than here, and with nothing else."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.installs import newest


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Environments of the processes that are started; `.venv` is a folder of the test's."""
    found: list[dict[str, Any]] = []

    def run(command: list[Any], **options: Any) -> "subprocess.CompletedProcess[str]":
        found.append({"command": command, **options})
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    return found


def offered(monkeypatch: pytest.MonkeyPatch, open_clip: str) -> None:
    """Let the registry have this version of open_clip, and the timm that is here."""

    def install(folder: Path) -> None:
        for name, version in {"open_clip_torch": open_clip, "timm": newest.versions(sys.path)["timm"]}.items():
            (place := folder / f"{name}-{version}.dist-info").mkdir(parents=True)
            (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    monkeypatch.setattr(newest, "install", install)


def test_a_newer_open_clip_is_what_the_tests_import(
    runs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    offered(monkeypatch, "3.99")
    assert newest.main(["-q"]) == 3
    (run,) = runs
    assert run["env"]["PYTHONPATH"] == str(tmp_path / "newest")
    assert {Path(word).name for word in run["command"]} >= set(newest.TESTS)


def test_what_is_here_already_is_not_tested_again(
    runs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = newest.versions(sys.path)["open_clip_torch"]
    offered(monkeypatch, here)
    assert newest.main([]) == 0
    assert runs == []
    assert f"open_clip_torch {here}" in capsys.readouterr().out


def test_both_are_bounded_above_and_the_tests_are_there() -> None:
    asked = [Requirement(line) for line in newest.bounds()]
    assert {requirement.name for requirement in asked} == set(newest.PACKAGES)
    assert all(any(part.operator == "<" for part in requirement.specifier) for requirement in asked)
    assert all((newest.ROOT / "tests" / "unit" / "model" / name).is_file() for name in newest.TESTS)
