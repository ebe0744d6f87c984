"""Folders that appear whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

from igsp_deploy.files import new_folder

DIES = """
import os, pathlib, sys
from igsp_deploy.files import new_folder
with new_folder(pathlib.Path(sys.argv[1])) as scratch:
    (scratch / "half").write_text("x")
    os._exit(9)
"""


def test_what_a_killed_process_left_behind_is_removed_and_nothing_else(tmp_path: Path) -> None:
    final = tmp_path / "model[1]"
    child = subprocess.Popen([sys.executable, "-c", DIES, str(final)])
    assert child.wait() == 9
    left = tmp_path / f".{final.name}.{child.pid}.tmp"
    assert (left / "half").exists()
    alive = tmp_path / f".{final.name}.{os.getppid()}.tmp"
    other = tmp_path / f".other.{child.pid}.tmp"
    for folder in (alive, other):
        folder.mkdir()
    with new_folder(final) as scratch:
        (scratch / "whole").write_text("x")
    assert [path.name for path in final.iterdir()] == ["whole"]
    assert not left.exists()
    assert alive.exists()
    assert other.exists()
