"""How much of the engine's speed the server gives to its clients, and what it costs that they ask for several tasks.

    python -m tests.load.throughput BUNDLE
    python -m tests.load.throughput --made

`--made` makes a bundle of four tasks on the embedded backbone first (random experts: speed does not depend on what
was learned). Server and engine run on one core, one after the other, with one thread of onnxruntime and one that
decodes; the clients are another process on another core. Both sides decode the same JPEG files. Needs a machine with
two idle cores.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from PIL import Image

from tests.load.process import serve_command, serving

CLIENTS = [1, 8, 32, 128]
BATCHES = [1, 4, 8, 16, 32]
SIDE = (320, 240)
"""Pixels of the files: a small photo."""
MIXED_CLIENTS = 32


def write_images(folder: Path, count: int = 32) -> None:
    """JPEG files of smooth coloured noise: as large, in bytes, as a photo of their size."""
    random = np.random.default_rng(0)
    for index in range(count):
        small = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        small.resize(SIDE, Image.Resampling.BICUBIC).save(folder / f"{index:02d}.jpg", quality=85)


def make_bundle(folder: Path) -> Path:
    """A bundle of four tasks on the embedded backbone."""
    from igsp_deploy.config import ModelConfig
    from igsp_export.export import export_bundle
    from tests.bench.make_model import make_model

    make_model(folder / "model", ModelConfig(backbone="nano", rank=8), tasks=4)
    export_bundle(folder / "model", folder / "bundle")
    return folder / "bundle"


LONGEST_S = 30.0
"""Time after which a server that answered nobody is broken."""


def engine_alone(bundle: Path, images: Path, core: int, batches: Sequence[int], seconds: float) -> dict[int, float]:
    """Batch size -> images per second, on one core."""
    command = _on_core(core, [sys.executable, "-m", "tests.load.engine_alone", str(bundle), "--images", str(images)])
    command += ["--seconds", str(seconds), "--batch", *map(str, batches)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {int(batch): rate for batch, rate in json.loads(done.stdout).items()}


def load(url: str, images: Path, core: int, clients: int, seconds: float, tasks: str = "auto") -> dict[str, Any]:
    """What `clients` clients on one core saw."""
    command = _on_core(core, [sys.executable, "-m", "tests.load.clients", "--url", url, "--images", str(images)])
    command += ["--clients", str(clients), "--seconds", str(seconds), "--warm-s", "1.5", "--tasks", tasks]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seen: dict[str, Any] = json.loads(done.stdout)
    if not seen["statuses"] and seconds < LONGEST_S:  # so slow a machine that nobody was answered in time
        return load(url, images, core, clients, 4 * seconds, tasks)
    if set(seen["statuses"]) != {"200"}:
        raise SystemExit(f"not all were answered: {seen['statuses']}")
    return seen


def measure(
    bundle: Path,
    *,
    seconds: float,
    core: int,
    client_core: int,
    counts: Sequence[int] = CLIENTS,
    batches: Sequence[int] = BATCHES,
    rounds: int = 3,
) -> None:
    """Print the tables.

    Args:
        bundle: what is served.
        seconds: of each measurement.
        core: of server and engine.
        client_core: of the clients.
        counts: of clients.
        batches: tried by the engine alone.
        rounds: pairs of one task and mixed tasks.
    """
    with tempfile.TemporaryDirectory() as made:
        images = Path(made) / "images"
        images.mkdir()
        write_images(images)
        alone = engine_alone(bundle, images, core, batches, seconds / 2)
        best = max(alone, key=lambda batch: alone[batch])
        rows: dict[int, dict[str, Any]] = {}
        one: list[float] = []
        mixed: list[float] = []
        options = ("--provider", "cpu", "--threads", 1)
        command = _on_core(core, serve_command(bundle)[:4])
        with serving(bundle, Path(made) / "server", *options, command=command) as server:
            for clients in counts:
                rows[clients] = load(server.url, images, client_core, clients, seconds)
            names = [task["name"] for task in httpx2.get(f"{server.url}/v1/tasks", timeout=60).json()["tasks"]]
            for _ in range(rounds):
                for tasks, rates in ((names[0], one), (",".join(names), mixed)):
                    seen = load(server.url, images, client_core, MIXED_CLIENTS, seconds / 2, tasks)
                    rates.append(seen["rate"])
        # Once more: a machine that became slower meanwhile would show as a slow server.
        again = engine_alone(bundle, images, core, [best], seconds / 2)[best]
    reached = (alone[best] + again) / 2
    print("| engine alone, batch of | images/s |\n| ---: | ---: |")
    for batch, rate in alone.items():
        print(f"| {batch} | {rate:.1f} |")
    print(f"| {best}, once more at the end | {again:.1f} |\n")
    print("| clients | images/s | of the engine alone | p50 ms | p99 ms |\n| ---: | ---: | ---: | ---: | ---: |")
    for clients, row in rows.items():
        share = row["rate"] / reached
        print(f"| {clients} | {row['rate']:.1f} | {share:.2f} | {row['p50_ms']:.0f} | {row['p99_ms']:.0f} |")
    cost = 1 - statistics.mean(mixed) / statistics.mean(one)
    pairs = ", ".join(f"{b / a:.3f}" for a, b in zip(one, mixed, strict=True))
    of_one = f"{statistics.mean(one):.1f} images/s of one task"
    of_all = f"{statistics.mean(mixed):.1f} of {len(names)} tasks mixed"
    print(f"\n{MIXED_CLIENTS} clients: {of_one}, {of_all}: mixing costs {100 * cost:.1f} % (each pair: {pairs}).")


def _on_core(core: int, command: list[str]) -> list[str]:
    return ["taskset", "--cpu-list", str(core), *command]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.throughput", description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--made", action="store_true", help="make a bundle on the embedded backbone")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--core", type=int, default=0, help="core of server and engine")
    parser.add_argument("--client-core", type=int, default=1)
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--batch", type=int, nargs="+", default=BATCHES, help="tried by the engine alone")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of one task and mixed tasks")
    given = parser.parse_args(arguments)
    if (given.bundle is None) != given.made:
        parser.error("give a bundle, or --made, one of them")
    with tempfile.TemporaryDirectory() as folder:
        bundle = given.bundle or make_bundle(Path(folder))
        measure(
            bundle,
            seconds=given.seconds,
            core=given.core,
            client_core=given.client_core,
            counts=given.clients,
            batches=given.batch,
            rounds=given.rounds,
        )


if __name__ == "__main__":
    main()
