"""What the engine reaches without a server: files decoded and run in one thread, batch after batch.

    python -m tests.load.engine_alone BUNDLE --images FOLDER --batch 1 8 32 --seconds 5

Prints one line of JSON: batch size -> images per second.
"""

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from igsp_deploy.names import AUTO
from igsp_deploy.runtime.engine import Engine
from igsp_serve.decode import decode, known_formats


def images_per_second(engine: Engine, files: Sequence[bytes], batch: int, seconds: float) -> float:
    """Decode and run batches for some time, after a first one that is not counted."""
    spec, formats = engine.manifest.preprocess, known_formats()
    source = itertools.cycle(files)
    task = np.full(batch, AUTO, np.int64)

    def run() -> None:
        pixels = [decode(next(source), spec, max_pixels=50_000_000, formats=formats) for _ in range(batch)]
        engine.run_images(np.stack(pixels), task)

    run()
    start, done = time.monotonic(), 0
    while time.monotonic() < start + seconds:
        run()
        done += batch
    return done / (time.monotonic() - start)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.engine_alone", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args(arguments)
    engine = Engine.open(given.bundle, "cpu", num_threads=1)
    files = [path.read_bytes() for path in sorted(given.images.iterdir())]
    print(json.dumps({batch: images_per_second(engine, files, batch, given.seconds) for batch in given.batch}))


if __name__ == "__main__":
    main()
