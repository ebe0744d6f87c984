"""The server runs where torch is not installed."""

import subprocess
import sys


def test_the_server_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import igsp_serve.http.server, igsp_serve.commands.serve"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
