"""How many steps a task wants, by the size of its data: test images right after each number of steps, the task given.

    python -m tests.bench.steps [FOLDER...] [--together] [--drawn N] [--shots 0] [--steps 100 200 800 3200] [--seeds 1]

Each FOLDER is a set with `train`, `test` and `classes.json`, one task; with `--together` all their classes are one.
With `--drawn` there is a task more, N pictures of one to four drawn shapes to be counted, and 1,000 to test by.
Embedded backbone, everything else as by default; `warmup` is a tenth of the steps, and no run ends early.
"""

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from igsp_deploy import Model
from igsp_train.research.study.planted import COLOURS, COUNTS, draw_shapes

DRAWN_TEST = 1000
"""Drawn pictures to test by."""


def draw(folder: Path, images: int) -> Path:
    """Pictures of shapes in all colours, sorted by how many there are."""
    random = np.random.default_rng(0)
    colours = list(COLOURS.values())
    for split, number in (("train", images), ("test", DRAWN_TEST)):
        for index in range(number):
            count = index % len(COUNTS)
            place = folder / split / COUNTS[count]
            place.mkdir(parents=True, exist_ok=True)
            colour = colours[index // len(COUNTS) % len(colours)]
            draw_shapes(colour, count + 1, random).save(place / f"{index:05d}.png")
    return folder


def join(folders: list[Path], target: Path) -> Path:
    """All classes of some sets as one set, by links; each class is called by its sentence."""
    words: dict[str, str] = {}
    for folder in folders:
        known = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
        for name, word in known["classes"].items():
            words[f"{folder.name} {name}"] = known["template"].format(word)
            for split in ("train", "test"):
                (target / split).mkdir(parents=True, exist_ok=True)
                (target / split / f"{folder.name} {name}").symlink_to((folder / split / name).resolve())
    (target / "classes.json").write_text(json.dumps({"template": "{}", "classes": words}), encoding="utf-8")
    return target


def measure(source: Path, steps: int, shots: int, seed: int) -> float:
    """Percent of test images that are right, the task given."""
    with TemporaryDirectory() as scratch:
        model = Model.create(Path(scratch) / "model")
        data = {"shots": shots, "seed": seed}
        model.learn("set", source, data=data, steps=steps, warmup_steps=steps // 10, patience=0, seed=seed)
        return float(model.evaluate()["given"][-1][0])


def main() -> None:
    """Print a row a set."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.steps", description=__doc__.split("\n")[0])
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER")
    parser.add_argument("--together", action="store_true")
    parser.add_argument("--drawn", type=int, default=0)
    parser.add_argument("--shots", type=int, default=0)
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 200, 800, 3200])
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    with TemporaryDirectory() as scratch:
        sets = [join(options.folders, Path(scratch) / "all")] if options.together else list(options.folders)
        sets += [draw(Path(scratch) / "drawn", options.drawn)] if options.drawn else []
        print(f"| % right, task given | {' | '.join(f'{steps} steps' for steps in options.steps)} | minutes |")
        print("|---" * (len(options.steps) + 2) + "|")
        for source in sets:
            begun = time.monotonic()
            cells = []
            for steps in options.steps:
                found = [measure(source, steps, options.shots, seed) for seed in range(options.seeds)]
                each = f" ({', '.join(f'{value:.1f}' for value in found)})" if options.seeds > 1 else ""
                cells.append(f"{np.mean(found):.1f}{each}")
            print(f"| {source.name} | {' | '.join(cells)} | {(time.monotonic() - begun) / 60:.0f} |", flush=True)


if __name__ == "__main__":
    main()
