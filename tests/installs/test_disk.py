"""The disk that the install lines of docs/install.md name is what the wheels hold. Needs the registry."""

import io
import re
import zipfile
from pathlib import Path

import pytest

from tests.installs.disk import LINES, Line, contents, measure

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r'^\| ([^|]+) \| [^|]+ \| .*`pip install "\.\[([a-z,]+)\]"` \| ([0-9.]+) GB \|$', re.MULTILINE)
SAID = {
    (machine.split(" (")[0], extras): float(disk)
    for machine, extras, disk in ROW.findall((ROOT / "docs" / "install.md").read_text())
}
"""Machine and extras of each row of that page, with the disk it names in GB."""


def test_every_row_of_the_page_is_measured() -> None:
    assert {(line.machine.split(" (")[0], line.extras) for line in LINES} == SAID.keys()


@pytest.mark.parametrize("line", [line for line in LINES if "serve" in line.extras], ids=lambda line: line.extras)
def test_the_page_says_what_serving_takes(line: Line) -> None:
    found, said = measure(line), SAID[line.machine, line.extras]
    assert found.download < found.unpacked < found.compiled
    assert said * 0.8 < found.compiled / 1e9 < said * 1.1


def test_a_wheel_says_how_large_its_files_are() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("a/b.py", " " * 5000)
        wheel.writestr("a/c.so", bytes(7000))
    assert len(file.getvalue()) < 1000
    assert contents(file) == (12000, 5000)
