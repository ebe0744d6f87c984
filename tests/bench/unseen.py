"""Which learned tasks take the images of a set that none has learned: nothing is learned, only the trunk is read.

    python -m tests.bench.unseen --task NAME=SOURCE ... [--never NAME=SOURCE ...] [--vision-blocks 3]

Each `--task` in turn is left out, and its test images go to the selector of all others; those of `--never` go to the
selector of all tasks. Told are the percent that are left to plain CLIP, and the tasks that take 1 % or more.
"""

import argparse
from collections.abc import Mapping
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
from igsp_train.statistics import chunked_summaries


def read(sources: Mapping[str, str], vision_blocks: int) -> dict[str, tuple[TaskStatistics, Tensor]]:
    """What the selector keeps of each task, and what it reads of its test images, `[N, F]`."""
    backbone, config, data = load_backbone("nano"), ModelConfig(vision_blocks=vision_blocks), DataConfig()
    with TemporaryDirectory() as scratch:
        sites = ModelFolder.create(Path(scratch) / "model", backbone, config, SelectorConfig()).sites
    clip, found = Clip(backbone, sites), {}
    for name, source in sources.items():
        task = load_task_data(name, source, val_share=data.val_share, test_share=data.test_share, seed=0, shots=0)
        features, labels = chunked_summaries(clip, eval_chunks(task.train, backbone.preprocess))
        kept = task_statistics(features, labels, len(task.display_names), keep=SelectorConfig().calibration_images)
        found[name] = kept, chunked_summaries(clip, eval_chunks(task.test, backbone.preprocess))[0]
    return found


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
    options = parser.parse_args()
    tasks = read(parse_tasks(options.task), options.vision_blocks)
    never = read(parse_tasks(options.never), options.vision_blocks) if options.never else {}
    print("| unseen | tasks learned | left to plain CLIP | taken by |\n|---|---:|---:|---|")
    torch.set_grad_enabled(False)
    means: dict[str, list[float]] = {"mean of those left out in turn": [], "mean of those never learned": []}
    for group, (sets, title) in enumerate(zip((tasks, never), means, strict=True)):
        for name, (_, images) in sets.items():
            learned = {other: kept for other, (kept, _) in tasks.items() if group or other != name}
            plain, *others = taken(learned, images).items()
            cells = ", ".join(f"{other} {share:.0f}" for other, share in others if share >= 1)
            print(f"| {name} | {len(learned)} | {plain[1]:.1f} | {cells} |", flush=True)
            means[title].append(plain[1])
        if sets:
            print(f"| {title} | | {sum(means[title]) / len(sets):.1f} | |")


if __name__ == "__main__":
    main()
