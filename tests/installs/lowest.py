"""The fast tests with every dependency at the lowest version that pyproject.toml allows: `make lowest`.

The environment is kept in `.venv/lowest`. torch and torchvision with their libraries are 6 GB: they are shared with the
environment that this runs in, at its versions. `lowest.txt` holds the versions: `make lowest-versions` after a change
of a bound; `test_bounds.py` asks that each bound is in it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = Path(__file__).with_name("lowest.txt")
SHARED = ("torch", "torchvision", "torchgen", "functorch", "triton", "nvidia", "cuda")
"""How the names of torch's packages begin."""
FAST = (
    "runtime",
    "bundle",
    "deploy",
    "serve/http",
    "serve/test_client.py",
    "serve/test_tracing.py",
    "export/test_graphs.py",
)


def make_environment(folder: Path) -> Path:
    """Make or renew the environment.

    Returns:
        Its interpreter.
    """
    python = folder / "bin" / "python"
    uv = str(Path(sys.executable).with_name("uv"))
    if not python.exists():
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    subprocess.run([uv, "pip", "sync", "--quiet", "--python", python, VERSIONS], check=True)
    own = Path(
        subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
    )
    shared = folder / "shared"
    shutil.rmtree(shared, ignore_errors=True)
    shared.mkdir()
    for place in map(Path, sys.path):
        for entry in place.iterdir() if place.name == "site-packages" else ():
            if entry.name.startswith(SHARED) and not (shared / entry.name).exists():
                (shared / entry.name).symlink_to(entry)
    paths = [shared, *(ROOT / part for part in (".", "train", "export", "serve"))]
    (own / "shared.pth").write_text("".join(f"{path}\n" for path in paths))
    return python


def main() -> int:
    """Run the fast tests there; further arguments go to pytest."""
    python = make_environment(Path(sys.prefix) / "lowest")
    tests = [ROOT / "tests" / "unit" / name for name in FAST]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([python, "-m", "pytest", *tests, *sys.argv[1:]], cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
