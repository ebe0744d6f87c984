"""What `igsp doctor` finds."""

import sys
import types
from pathlib import Path

import pytest
import typer

from igsp_deploy.cli import doctor
from igsp_deploy.installed import install_command


def test_versions_and_resources_are_plain_values(tmp_path: Path) -> None:
    found = doctor.examine(tmp_path)
    assert found["packages"]["numpy"]
    assert found["disk_free_gib"] > 0
    assert "CPUExecutionProvider" in found["providers"]


def test_missing_weights_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_weights_mib", lambda: None)
    assert any("embedded backbone" in problem for problem in doctor.examine(tmp_path)["problems"])


def problems(tmp_path: Path) -> list[str]:
    found: list[str] = doctor.examine(tmp_path)["problems"]
    return found


def test_a_session_is_opened_where_it_may_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "has_nvidia_driver", lambda: False)
    found = doctor.examine(tmp_path)
    assert found["sessions"] == {"CPUExecutionProvider": True}
    assert len(found["runtimes"]) == 1
    assert found["problems"] == []


def test_both_onnxruntimes_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_onnxruntime_kinds", lambda: ["onnxruntime", "onnxruntime-gpu"])
    for driver, kind in ((True, "gpu"), (False, "cpu")):
        monkeypatch.setattr(doctor, "has_nvidia_driver", lambda driver=driver: driver)
        (problem, *_) = problems(tmp_path)
        assert "overwrite each other" in problem
        assert f"pip uninstall -y onnxruntime onnxruntime-gpu && {install_command(kind)}" in problem


def test_no_onnxruntime_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_onnxruntime_kinds", list)
    (problem,) = problems(tmp_path)
    assert install_command("cpu") in problem
    assert install_command("gpu") in problem


@pytest.mark.parametrize("left", [None, types.ModuleType("onnxruntime")], ids=["nothing", "half of it"])
def test_an_onnxruntime_that_cannot_be_imported_is_a_problem(
    left: types.ModuleType | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", left)
    (problem,) = problems(tmp_path)
    assert "cannot be used" in problem
    assert "pip uninstall -y onnxruntime" in problem


def test_a_problem_is_an_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for found, code in (([], 0), (["broken: pip install x"], 1)):
        whole = doctor.examine(Path.cwd()) | {"problems": found}
        monkeypatch.setattr(doctor, "examine", lambda folder, whole=whole: whole)
        for json in (False, True):
            with pytest.raises(typer.Exit) as leaving:
                doctor.doctor(json=json)
            assert leaving.value.exit_code == code
            assert all(problem in capsys.readouterr().out for problem in found)
        monkeypatch.undo()
