"""The tests of towers, catalogue and loading with the newest open_clip and timm within our bounds: `make newest`.

Both are put into `.venv/newest`, before everything else of the environment that this runs in. Where they are what is
installed already, nothing is left to be seen and the tests are not run a second time.
"""

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("open_clip_torch", "timm")
TESTS = ("test_towers.py", "test_catalogue.py", "test_loading.py")


def bounds() -> list[str]:
    """What `[train]` asks of the packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = map(Requirement, project["optional-dependencies"]["train"])
    return [str(requirement) for requirement in asked if requirement.name in PACKAGES]


def versions(path: list[str]) -> dict[str, str]:
    """Package -> version that a Python with this path imports."""
    found = {}
    for name in PACKAGES:
        (first, *_) = importlib.metadata.distributions(name=name, path=path)
        found[name] = first.version
    return found


def install(folder: Path) -> None:
    """Put the newest there that the registry has; without what they need, which is here."""
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", folder, *bounds()], check=True
    )


def main(arguments: list[str]) -> int:
    """Run the tests there; `arguments` go to pytest.

    Returns:
        pytest's exit code; 0 where there is nothing newer.
    """
    folder = Path(sys.prefix) / "newest"
    install(folder)
    newest = versions([str(folder)])
    print("newest:", ", ".join(f"{name} {version}" for name, version in newest.items()), flush=True)
    if newest == versions(sys.path):
        print("These are installed here: the tests have seen them.")
        return 0
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    tests = [ROOT / "tests" / "unit" / "model" / name for name in TESTS]
    return subprocess.run([sys.executable, "-m", "pytest", *tests, *arguments], cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
