"""The `igsp` command as a user meets it: output, exit codes, one line a mistake."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from igsp_deploy.doors import COMMANDS
from igsp_deploy.installed import install_command
from tests.cli import igsp

if TYPE_CHECKING:
    from tests.conftest import Bundled


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_help_loads_no_heavy_library() -> None:
    heavy = (
        "torch",
        "pydantic",
        "open_clip",
        "onnxruntime",
        "onnx",
        "numpy",
        "PIL",
        "sklearn",
        "matplotlib",
        "tokenizers",
    )
    result = python(
        "import sys, igsp_deploy.cli.main as m\n"
        "try: m.app(['--help'])\n"
        "except SystemExit: pass\n"
        f"print('LOADED', [name for name in {heavy!r} if name in sys.modules])"
    )
    assert "LOADED []" in result.stdout, result.stdout + result.stderr
    assert "train" in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_examples(command: str) -> None:
    result = igsp(command, "--help")
    assert result.returncode == 0, result.stderr
    assert "Usage" in result.stdout
    assert f"igsp {command}" in result.stdout.split("Examples", 1)[-1]


def test_version_is_the_package_version() -> None:
    from igsp_deploy import __version__

    assert igsp("--version").stdout.strip() == f"igsp-deploy {__version__}"


def test_a_shell_completes_commands() -> None:
    asked = {"_IGSP_COMPLETE": "complete_bash", "COMP_WORDS": "igsp tra", "COMP_CWORD": "1"}
    command = [sys.executable, "-c", "import sys; sys.argv = ['igsp']; from igsp_deploy.cli.main import main; main()"]
    done = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["train"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["train", "m"], "nothing to learn"),
        (["train", "m", "--task", "shoes"], "name=SOURCE"),
        (["train", "m", "--task", "auto=x"], "'auto'"),
        (["train", "m", "--task", "a=x", "--task", "a=y"], "given twice"),
        (["train", "m", "--task", "a=x", "--set", "learn.stepz=3"], "learn.stepz is not an option"),
        (["train", "m", "--task", "a=x", "--set", "model.rank=0"], "model.rank must be at least 1, got 0"),
        (["train", "m", "--config", "absent.yaml"], "absent.yaml"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_2(arguments: list[str], text: str, tmp_path: Path) -> None:
    result = igsp(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert text in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_option_is_exit_2() -> None:
    assert igsp("train", "m", "--bogus").returncode == 2


def test_a_task_in_file_and_option_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("tasks: {a: x}\n")
    result = igsp("train", "m", "--config", "run.yaml", "--task", "a=y", cwd=tmp_path)
    assert result.returncode == 2
    assert "Give it once" in result.stderr


def test_a_task_twice_in_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("tasks:\n  a: x\n  a: y\n")
    result = igsp("train", "m", "--config", "run.yaml", cwd=tmp_path)
    assert result.returncode == 2
    assert "'a' is given twice" in result.stderr


def test_missing_data_is_exit_1_and_leaves_nothing(tmp_path: Path) -> None:
    result = igsp("train", "m", "--task", "a=absent", cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    assert result.stderr.startswith("error: ")
    assert "absent" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_evaluating_what_is_no_model_is_exit_1(tmp_path: Path) -> None:
    result = igsp("evaluate", "absent", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr


def test_our_own_mistakes_keep_their_traceback() -> None:
    result = python(
        "import igsp_deploy.cli.main as m\ndef broken(): raise ValueError('ours')\nm.app = broken\nm.main()"
    )
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "ours" in result.stderr


def test_a_missing_extra_names_the_remedy() -> None:
    result = python(
        "import sys, igsp_deploy.cli.main as m\n"
        "def broken(): raise ModuleNotFoundError('no', name='torch')\n"
        "m.app = broken\n"
        "m.main()"
    )
    assert result.returncode == 1
    assert f"Install it with: {install_command('train')}" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_interruption_is_exit_130() -> None:
    code = (
        "import os, signal, sys, igsp_deploy.cli.main as m\n"
        # A shell's background job inherits an ignored SIGINT.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "@m.app.command('hang')\n"
        "def hang():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    import time; time.sleep(10)\n"
        "sys.argv = ['igsp', 'hang']\n"
        "m.main()"
    )
    assert signal.getsignal(signal.SIGINT) is not None
    result = python(code)
    assert result.returncode == 130
    assert result.stderr.strip() == "interrupted"


def test_doctor_reports_json(tmp_path: Path) -> None:
    result = igsp("doctor", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["cpu_cores"] == os.cpu_count()
    assert found["packages"]["numpy"]


def test_every_command_that_runs_graphs_says_which_onnxruntime_to_install(bundled: "Bundled", tmp_path: Path) -> None:
    """One process for all: `sys.modules` makes an import fail as a missing package does."""
    image = bundled.images("colors")[0]
    commands: list[list[object]] = [
        ["predict", bundled.bundle, image],
        ["serve", bundled.bundle, "--port", 0],
        ["demo", bundled.bundle, "--port", 0],
        ["verify", bundled.bundle],
        ["bench", bundled.bundle, "--model", bundled.model],
        ["export", bundled.model, tmp_path / "bundle"],
        ["quickstart", "--out", tmp_path / "tour"],
    ]
    code = (
        "import sys\n"
        "sys.modules['onnxruntime'] = None\n"
        "import igsp_deploy.cli.main as m\n"
        f"for arguments in {[list(map(str, command)) for command in commands]!r}:\n"
        "    sys.argv = ['igsp', *arguments]\n"
        "    try:\n"
        "        m.main()\n"
        "    except SystemExit as leaving:\n"
        "        print(arguments[0], leaving.code)\n"
    )
    result = python(code)
    assert result.stdout.splitlines() == [f"{command[0]} 1" for command in commands]
    wanted = (
        "error: this command needs onnxruntime, which is not installed. "
        f"Install it with: {install_command('cpu')} (without a GPU), "
        f"or {install_command('gpu')} (with an NVIDIA GPU), never both."
    )
    assert result.stderr.splitlines() == [wanted] * len(commands)
    assert list(tmp_path.iterdir()) == []


def test_windows_is_told_where_igsp_runs() -> None:
    """Before anything is imported that Windows does not have."""
    result = python(
        "import sys\n"
        "sys.modules['fcntl'] = sys.modules['resource'] = None\n"
        "import igsp_deploy.cli.main as m\n"
        "sys.platform = 'win32'\n"
        "sys.argv = ['igsp', 'doctor']\n"
        "m.main()"
    )
    assert result.returncode == 1
    assert result.stderr == "error: igsp runs on Linux and macOS; on Windows run it in WSL 2, which is a Linux.\n"
