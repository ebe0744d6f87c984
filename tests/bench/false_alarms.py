"""How many of a task's new images fall under the threshold of its selector: nothing is learned, only the trunk is read.

    python -m tests.bench.false_alarms DATA [--backbone nano] [--asked 0.05 0.02] [--halves 8]

DATA holds one folder a task, as `igsp train` reads them. Two rows a share: on the sets' own test images, and on random
halves of all images of a set, where what is left out comes from the same source as what is learned.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from igsp_deploy.config import ModelConfig, SelectorConfig
from igsp_deploy.data import eval_chunks, load_task_data
from igsp_deploy.model.clip import Clip
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.loading import load_backbone
from igsp_deploy.model.selector import Selector, task_statistics
from igsp_train.statistics import chunked_summaries

Split = tuple[Tensor, Tensor]
"""Features `[N, F]` and labels `[N]`."""


def read(data: Path, backbone_name: str) -> dict[str, dict[str, Split]]:
    """What the selector reads of every split of every set."""
    backbone = load_backbone(backbone_name)
    with TemporaryDirectory() as scratch:
        config = ModelConfig(backbone=backbone_name)
        sites = ModelFolder.create(Path(scratch) / "model", backbone, config, SelectorConfig()).sites
    clip, found = Clip(backbone, sites), {}
    for place in sorted(data.iterdir()):
        if (place / "train").is_dir():
            task = load_task_data(place.name, str(place), val_share=0.1, test_share=0.2, seed=0, shots=0)
            parts = {"train": task.train, "val": task.val, "test": task.test}
            found[place.name] = {
                name: chunked_summaries(clip, eval_chunks(items, backbone.preprocess)) for name, items in parts.items()
            }
    return found


def under(train: list[Split], new: list[Tensor], held_out: list[Tensor] | None, asked: float) -> list[float]:
    """Percent of each task's new images that fall under its threshold."""
    config = SelectorConfig()
    statistics = [
        task_statistics(*split, int(split[1].max()) + 1, None if held_out is None else held_out[t])
        for t, split in enumerate(train)
    ]
    selector = Selector.fit(statistics, shrinkage=config.shrinkage, false_alarm=asked, background=config.background)
    return [100 * float((selector.scores(x)[:, t] < selector.thresholds[t]).float().mean()) for t, x in enumerate(new)]


def halves(sets: list[dict[str, Split]], asked: float, count: int) -> list[float]:
    """The same on random halves of all images of a set, mean over `count` draws."""
    rows = []
    for seed in range(count):
        generator, train, new = torch.Generator().manual_seed(seed), [], []
        for one in sets:
            x, y = (torch.cat([split[part] for split in one.values()]) for part in (0, 1))
            order = torch.randperm(len(y), generator=generator)
            train.append((x[order[: len(y) // 2]], y[order[: len(y) // 2]]))
            new.append(x[order[len(y) // 2 :]])
        rows.append(under(train, new, None, asked))
    return torch.tensor(rows).mean(0).tolist()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.false_alarms", description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default="nano")
    parser.add_argument("--asked", type=float, nargs="+", default=[0.05, 0.02])
    parser.add_argument("--halves", type=int, default=8)
    given = parser.parse_args()
    read_sets = read(given.data, given.backbone)
    sets = list(read_sets.values())
    train, test, val = ([one[name] for one in sets] for name in ("train", "test", "val"))
    new = [x for x, _ in test]
    print("| asked % | threshold from, measured on |", " | ".join(read_sets), "| mean |")
    print("|---" * (len(sets) + 3) + "|")
    for asked in given.asked:
        for title, row in (
            ("held-out images, test images", under(train, new, [x for x, _ in val], asked)),
            ("left-out training images, test images", under(train, new, None, asked)),
            ("left-out training images, random halves", halves(sets, asked, given.halves)),
        ):
            cells = " | ".join(f"{value:.1f}" for value in [*row, sum(row) / len(row)])
            print(f"| {100 * asked:g} | {title} | {cells} |")


if __name__ == "__main__":
    main()
