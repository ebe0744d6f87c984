"""`igsp serve` whose model can be broken from outside: as a device that is lost, or a call that never ends.

    python -m tests.load.breakable FOLDER BUNDLE --port 8000

While FOLDER holds a file `lost`, every call of the model raises; while it holds `stuck`, calls wait. Everything else is
the server as it is.
"""

import sys
import time
from pathlib import Path
from typing import Any

from igsp_deploy.cli.main import main
from igsp_deploy.runtime.engine import Engine


def break_when_told(folder: Path) -> None:
    """Put the two faults before the engine."""
    run = Engine.run_images

    def run_images(engine: Engine, *arguments: Any, **options: Any) -> Any:
        while (folder / "stuck").exists():
            time.sleep(0.02)
        if (folder / "lost").exists():
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")
        return run(engine, *arguments, **options)

    Engine.run_images = run_images  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    break_when_told(Path(sys.argv[1]))
    sys.argv[1:] = ["serve", *sys.argv[2:]]
    main()
