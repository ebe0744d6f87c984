"""What a task that was extended is worth beside one learned at once, on the sets' own test images.

    python -m tests.bench.extending FOLDER... [--steps 100]

Each FOLDER is a set with `train` and `test`. Its task is learned from all images; from every second image of each
class, and then extended by the others; and from the first half of its classes, and then extended by the others.
Embedded backbone, experts in the upper three image blocks, one seed.
"""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from igsp_deploy import Model

WAYS = ("all at once", "half of the images", "and extended", "half of the classes", "and extended by the others")


def _copy(source: Path, target: Path, take: Callable[[int, int, str], bool]) -> Path:
    """A part of a set, as links: `take(class, image, split)` says which."""
    shutil.rmtree(target, ignore_errors=True)
    names = sorted(path.name for path in (source / "train").iterdir() if path.is_dir())
    for split in ("train", "test"):
        for number, name in enumerate(names):
            for index, file in enumerate(sorted((source / split / name).iterdir())):
                if take(number, index, split):
                    (target / split / name).mkdir(parents=True, exist_ok=True)
                    (target / split / name / file.name).symlink_to(file.resolve())
    words = source / "classes.json"
    if words.is_file():
        known = json.loads(words.read_text(encoding="utf-8"))
        classes = {name: word for name, word in known["classes"].items() if (target / "train" / name).is_dir()}
        (target / "classes.json").write_text(json.dumps({**known, "classes": classes}), encoding="utf-8")
    return target


def measure(source: Path, steps: int) -> list[float]:
    """Accuracy in percent, the task given, a value for each of `WAYS`; that of half of the classes is among them."""
    half = sum(path.is_dir() for path in (source / "train").iterdir()) // 2
    parts: list[Callable[[int, int, str], bool]] = [
        lambda number, index, split: True,
        lambda number, index, split: split == "test" or index % 2 == 0,
        lambda number, index, split: number < half,
    ]
    found: list[float] = []
    with TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        for way, part in enumerate(parts):
            model = Model.create(Path(scratch) / f"model{way}", vision_blocks=3)
            model.learn("set", _copy(source, data, part), steps=steps, warmup_steps=steps // 10)
            found.append(model.evaluate()["given"][-1][0])
            if way:
                model.extend("set", _copy(source, data, parts[0]))
                found.append(model.evaluate()["given"][-1][0])
    return found


def main() -> None:
    """Print a row a set."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.extending", description=__doc__.split("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    print(f"| % right, task given | {' | '.join(WAYS)} |")
    print("|---" * (len(WAYS) + 1) + "|")
    for folder in options.folders:
        cells = [f"{value:.1f}" for value in measure(folder, options.steps)]
        print(f"| {folder.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
