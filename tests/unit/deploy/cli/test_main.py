"""What every command does at its ends: Ctrl-C at any moment, errors nobody foresaw, names that are no text."""

import subprocess
import sys
from pathlib import Path

import pytest

SWALLOWS = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):
        pass
except BaseException:
    pass
print("went on")
"""


def _run(code: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder, errors="surrogateescape")


@pytest.mark.parametrize("moment", ["import slow", "from igsp_deploy.cli import main\nimport slow", "import deeper"])
def test_an_import_that_would_swallow_an_interruption_does_not(tmp_path: Path, moment: str) -> None:
    (tmp_path / "slow.py").write_text(SWALLOWS)
    (tmp_path / "deeper.py").write_text("def load():\n    import slow\nload()\n")
    result = _run(f"import sys; sys.path.insert(0, '.')\nimport igsp_deploy.cli.main\n{moment}", tmp_path)
    assert (result.returncode, result.stderr, result.stdout) == (130, "interrupted\n", "")


RUNS = """
import os, signal, sys
from igsp_deploy.cli import main
def command():
    {body}
main.app = command
main.main()
"""


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        ("os.kill(os.getpid(), signal.SIGINT)", 130, "interrupted\n"),
        ("raise PermissionError(13, 'Permission denied', 'photos')", 1, "error: Permission denied (photos). Check"),
        ("raise OSError(30, 'Read-only file system')", 1, "error: Read-only file system. Check"),
        ("open('/nowhere/at/all')", 1, "error: No such file or directory (/nowhere/at/all)."),
        ("print('caf\\\\udce9')", 0, ""),
        ("raise main.UserError('caf\\\\udce9 is bad')", 1, "error: caf\\udce9 is bad"),
    ],
)
def test_every_end_leaves_at_most_one_line(tmp_path: Path, body: str, code: int, text: str) -> None:
    result = _run(RUNS.format(body=body), tmp_path)
    assert result.returncode == code
    assert result.stderr.startswith(text)
    assert len(result.stderr.splitlines()) == bool(text)


def test_what_was_begun_is_put_in_order_on_the_way_out(tmp_path: Path) -> None:
    body = "from igsp_deploy.files import new_folder; from pathlib import Path\n    with new_folder(Path('model')):\n"
    body += "        os.kill(os.getpid(), signal.SIGINT)"
    assert _run(RUNS.format(body=body), tmp_path).returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_nobody_reading_any_more_is_no_error(tmp_path: Path) -> None:
    code = RUNS.format(body="[print('x' * 1000) for _ in range(1000)]")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
