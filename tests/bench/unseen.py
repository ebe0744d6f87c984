"""Which learned tasks take the images of a set that none has learned: nothing is learned, only plain CLIP is read.

    python -m tests.bench.unseen --task NAME=SOURCE ... [--never NAME=SOURCE ...] [--vision-blocks 3] [--kinds]

Each `--task` in turn is left out, and its test images go to the selector of all others; those of `--never` go to the
selector of all tasks. Told are the percent that are left to plain CLIP, and the tasks that take 1 % or more. With
`--kinds`, what other kinds of selectors leave of `--never`, and read at other places (igsp_train/research/study/
selectors.py): thresholds from held-out images, moved together until 5 % of the learned test images lie under them.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from igsp_deploy.config import DataConfig, ModelConfig, SelectorConfig
from igsp_deploy.data import eval_chunks, load_task_data
from igsp_deploy.model.clip import Clip
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.loading import load_backbone
from igsp_deploy.model.selector import Selector, TaskStatistics, task_statistics
from igsp_deploy.names import PLAIN
from igsp_train.commands.tasks import parse_tasks
from igsp_train.research.study.selectors import KINDS, Read, Scored, measure_selector

PLACES = ("bottom", "trunk", "embedding")
"""What comes into the first block, what comes into the first adapted one (the product's), and what comes out."""


def read(sources: Mapping[str, str], vision_blocks: int) -> dict[str, dict[str, Read]]:
    """Features of all images of each task, at each of `PLACES`."""
    backbone, config, data = load_backbone("nano"), ModelConfig(vision_blocks=vision_blocks), DataConfig()
    with TemporaryDirectory() as scratch:
        sites = ModelFolder.create(Path(scratch) / "model", backbone, config, SelectorConfig()).sites
    low, clip, found = Clip(backbone, [("vision", 0)]), Clip(backbone, sites), {}
    for name, source in sources.items():
        task = load_task_data(name, source, val_share=data.val_share, test_share=data.test_share, seed=0, shots=0)
        splits: dict[str, list[Tensor]] = {}
        for split, items in (("train", task.train), ("val", task.val), ("test", task.test)):
            parts = []
            for images, targets in eval_chunks(items, backbone.preprocess):
                bottom = low.trunk(torch.from_numpy(images))
                tokens = clip.vision.climb(bottom, 0, clip.first_block)
                parts.append((low.summary(bottom), clip.summary(tokens), clip.embed(tokens), torch.from_numpy(targets)))
            splits[split] = [torch.cat(columns) for columns in zip(*parts, strict=True)]
        found[name] = {
            place: Read(
                train=splits["train"][p], labels=splits["train"][-1], val=splits["val"][p], test=splits["test"][p]
            )
            for p, place in enumerate(PLACES)
        }
    return found


def statistics_of(task: Read) -> TaskStatistics:
    """What the product's selector keeps of it."""
    return task_statistics(
        task.train, task.labels, int(task.labels.max()) + 1, keep=SelectorConfig().calibration_images
    )


def kind_row(kind: str, place: str, tasks: list[Read], never: list[Read]) -> str:
    """A row of the table of kinds."""
    config = SelectorConfig()
    score = KINDS[kind](tasks, config)
    after = Scored(
        held_out=[score(task.val)[:, t] for t, task in enumerate(tasks)],
        known=[score(task.test) for task in tasks],
        unseen=[score(other.test) for other in never],
    )
    found = measure_selector([[after, replace(after, unseen=[])]], config)
    columns = ("right_task", "false_alarm", "unseen_left_to_plain", "unseen_at_equal_alarm", "auroc")
    return f"| {kind} | {place} | " + " | ".join(f"{found[name]:.1f}" for name in columns) + " |"


def taken(learned: Mapping[str, TaskStatistics], images: Tensor) -> dict[str, float]:
    """Task -> percent of images `[N, F]` that it takes; `plain CLIP` first, then from the most to the fewest."""
    config, names = SelectorConfig(), list(learned)
    selector = Selector.fit(
        list(learned.values()),
        shrinkage=config.shrinkage,
        false_alarm=config.false_alarm,
        background=config.background,
    )
    chosen = selector.choose(images)
    shares = {name: 100 * float((chosen == t).float().mean()) for t, name in enumerate(names)}
    return {"plain CLIP": 100 * float((chosen == PLAIN).float().mean())} | dict(
        sorted(shares.items(), key=lambda pair: -pair[1])
    )


def main() -> None:
    """Print a row a set."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.unseen", description=__doc__.split("\n")[0])
    parser.add_argument("--task", action="append", required=True, metavar="NAME=SOURCE")
    parser.add_argument("--never", action="append", default=[], metavar="NAME=SOURCE")
    parser.add_argument("--vision-blocks", type=int, default=3)
    parser.add_argument("--kinds", action="store_true")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    tasks = read(parse_tasks(options.task), options.vision_blocks)
    never = read(parse_tasks(options.never), options.vision_blocks) if options.never else {}
    print("| unseen | tasks learned | left to plain CLIP | taken by |\n|---|---:|---:|---|")
    statistics = {name: statistics_of(places["trunk"]) for name, places in tasks.items()}
    means: dict[str, list[float]] = {"mean of those left out in turn": [], "mean of those never learned": []}
    for group, (sets, title) in enumerate(zip((tasks, never), means, strict=True)):
        for name, places in sets.items():
            learned = {other: kept for other, kept in statistics.items() if group or other != name}
            plain, *others = taken(learned, places["trunk"].test).items()
            cells = ", ".join(f"{other} {share:.0f}" for other, share in others if share >= 1)
            print(f"| {name} | {len(learned)} | {plain[1]:.1f} | {cells} |", flush=True)
            means[title].append(plain[1])
        if sets:
            print(f"| {title} | | {sum(means[title]) / len(sets):.1f} | |")
    if options.kinds:
        print("\n| kind | place | right task | left though learned | never learned, left | at 5 % | AUROC |")
        print("|---" * 7 + "|")
        for place in PLACES:
            reads = [[places[place] for places in sets.values()] for sets in (tasks, never)]
            for kind in KINDS:
                print(kind_row(kind, place, *reads), flush=True)


if __name__ == "__main__":
    main()
