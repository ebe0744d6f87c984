"""Latency of a bundle with CUDA graphs beside plain CLIP's slice of the same graph, in one interleaved run.

    python -m tests.bench.captured BUNDLE [--provider cuda] [--batch 1 8] [--rounds 50]

On the CPU (`--provider cpu`) nothing is captured; batches have their fixed sizes all the same.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from igsp_deploy.names import AUTO, PLAIN
from igsp_deploy.runtime.engine import Engine
from igsp_export.bench.timing import interleave, paired_ratio
from igsp_export.images import synthetic_images


def main() -> None:
    """Print a row a batch size and way of asking."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.captured", description=__doc__.split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    capture = options.provider == "cuda"
    captured = Engine.open(options.bundle, options.provider, batch_sizes=options.batch, cuda_graph=capture)
    free = Engine.open(options.bundle, options.provider)
    size, total = captured.manifest.preprocess.size, len(captured.manifest.tasks)
    print("| batch | asked | captured | ms | beside plain |\n|---|---|---|---|---|")
    for batch in options.batch:
        images = synthetic_images(batch, size)
        asked = {
            "plain": np.full(batch, PLAIN, np.int64),
            "named": np.zeros(batch, np.int64),
            "mixed": np.arange(batch, dtype=np.int64) % total,
            "chosen": np.full(batch, AUTO, np.int64),
        }

        def call(engine: Engine, name: str) -> Callable[[], NDArray[np.float32]]:
            return lambda: engine.run_images(images, asked[name]).features  # noqa: B023

        ways = [(how, engine) for how, engine in (("yes" if capture else "no", captured), ("free size", free))]
        candidates = {f"{how}/{name}": call(engine, name) for how, engine in ways for name in asked}
        found = interleave(candidates, rounds=options.rounds, seconds=60.0, seed=0)
        for key, times in found.items():
            how, name = key.split("/")
            ratio = paired_ratio(times, found[f"{how}/plain"])
            print(f"| {batch} | {name} | {how} | {np.median(times):.2f} | {ratio} |")


if __name__ == "__main__":
    main()
