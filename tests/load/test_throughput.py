"""The script behind the table of serve/README.md runs, and says what it measured."""

import os
import re
import sys
from typing import Any

import pytest

from tests.load import throughput


@pytest.mark.skipif(sys.platform != "linux", reason="pins processes to cores")
def test_it_prints_the_share_and_what_mixing_costs(bundled: Any, capsys: pytest.CaptureFixture[str]) -> None:
    core = str(min(os.sched_getaffinity(0)))
    options = ["--seconds", "0.6", "--clients", "4", "--batch", "1", "4", "--rounds", "1"]
    throughput.main([str(bundled.bundle), *options, "--core", core, "--client-core", core])
    printed = capsys.readouterr().out
    assert re.search(r"^\| 4, once more at the end \| [\d.]+ \|$|^\| 1, once more", printed, re.MULTILINE)
    assert re.search(r"^\| 4 \| [\d.]+ \| \d\.\d\d \| \d+ \| \d+ \|$", printed, re.MULTILINE)
    assert re.search(r"32 clients: [\d.]+ images/s of one task, [\d.]+ of 2 tasks mixed", printed)
