"""What `igsp doctor` finds."""

from pathlib import Path

import pytest

from igsp_deploy.cli import doctor


def test_versions_and_resources_are_plain_values(tmp_path: Path) -> None:
    found = doctor.examine(tmp_path)
    assert found["packages"]["numpy"]
    assert found["disk_free_gib"] > 0
    assert "CPUExecutionProvider" in found["providers"]


def test_missing_weights_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_weights_mib", lambda: None)
    assert any("embedded backbone" in problem for problem in doctor.examine(tmp_path)["problems"])


def test_both_onnxruntimes_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "1.0")
    assert any("overwrite each other" in problem for problem in doctor.examine(tmp_path)["problems"])
