"""The `igsp` command in this process: what a real one prints and exits with, without starting Python and torch anew.

Each command also runs as a real process, in the documents' blocks (tests/integration/test_docs_blocks.py) and where the
process itself is what is tested.
"""

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from unittest import mock

from igsp_deploy.cli.main import main


def igsp(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `igsp ARGUMENTS` here, in the folder `cwd`; an error that is not the user's is raised."""
    words = ["igsp", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", words),
    ):
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code or 0
    assert isinstance(code, int), code
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())
