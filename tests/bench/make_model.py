"""A model folder of any number of tasks without training: random experts and routers, a real selector.

    python -m tests.bench.make_model OUT --backbone ViT-B-16 --tasks 11 --experts 4 --rank 16

It recognises nothing; its speed, its size on disk and its parity between PyTorch and ONNX are those of a learned model.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from igsp_deploy.config import ModelConfig, SelectorConfig
from igsp_deploy.errors import UsageError, UserError
from igsp_deploy.model.clip import Clip
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.loading import DEBUG, NANO, RANDOM, load_backbone
from igsp_deploy.model.record import TaskRecord
from igsp_deploy.model.selector import TaskStatistics, task_statistics
from igsp_deploy.model.task_files import LearnedTask
from igsp_deploy.sites import Site
from igsp_export.images import synthetic_images

BASE_IMAGES = 48
"""Synthetic images whose features all tasks are made from."""
SAMPLES_PER_CLASS = 4
CALIBRATION = 64
"""Made-up held-out features that set a task's threshold."""
DELTA = 0.2
"""Root mean square of what a block's experts add, where a block's normalised activations have 1."""


def make_model(
    path: Path,
    config: ModelConfig,
    *,
    tasks: int = 11,
    experts: int = 4,
    new: int = 4,
    classes: int = 20,
    seed: int = 0,
) -> Path:
    """Write a model folder of `tasks` tasks.

    Args:
        path: must not exist yet.
        config: backbone, adapted blocks and rank.
        tasks: number of tasks.
        experts: experts of a task's router in one block; R = experts * rank.
        new: how many of them the task brings; the others are drawn from earlier tasks'. The first brings all.
        classes: classes a task.
        seed: of everything random.

    Returns:
        `path`.

    Raises:
        UserError: a number out of range, or the folder cannot be made.
    """
    if min(tasks, experts, classes) < 1:
        raise UserError(f"--tasks, --experts and --classes must be at least 1, got {tasks}, {experts} and {classes}.")
    if not 0 <= new <= experts:
        raise UserError(f"--new must be in [0, {experts}], the number of --experts, got {new}.")
    backbone = load_backbone(config.backbone, config.pretrained)
    folder = ModelFolder.create(path, backbone, config, SelectorConfig())
    clip, size = Clip(backbone, folder.sites), backbone.preprocess.size
    parts = []
    with torch.no_grad():
        for images in torch.from_numpy(synthetic_images(BASE_IMAGES, size, seed=seed)).split(8):
            parts.append(clip.summary(clip.trunk(images)))
    base = torch.cat(parts)
    for index in range(tasks):
        generator = torch.Generator().manual_seed(1000 * seed + index)
        learned = _random_task(folder, generator, experts, new if index else experts, base, classes)
        folder.add_task(_record(index, classes, learned), learned)
    return path


def _random_task(
    folder: ModelFolder, generator: torch.Generator, experts: int, new: int, base: Tensor, classes: int
) -> LearnedTask:
    """Experts, routers and statistics of the next task."""
    rank = folder.config.rank
    drawn: dict[Site, tuple[Tensor, Tensor]] = {}
    ids: dict[Site, list[int]] = {}
    weights: dict[Site, Tensor] = {}
    biases: dict[Site, Tensor] = {}
    # Of `experts` gates each near 1 / experts: the sum over all of them has the root mean square DELTA.
    spread = DELTA * (experts / rank) ** 0.5 / folder.config.scale

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    for site in folder.sites:
        known, width = folder.pool.size(site), folder.width(site)
        reused = torch.randperm(known, generator=generator)[: experts - new].sort().values.tolist()
        ids[site] = [*reused, *range(known, known + new)]
        if new:
            drawn[site] = (draw(new, rank, width) * width**-0.5, draw(new, width, rank) * spread)
        if site[0] == "vision" and folder.config.router_input != "static":
            weights[site] = draw(experts, width) * width**-0.5
        biases[site] = 0.5 * draw(experts)
    return LearnedTask(
        experts=drawn,
        ids=ids,
        router_weights=weights,
        router_biases=biases,
        statistics=_statistics(base, classes, generator),
    )


def _statistics(base: Tensor, classes: int, generator: torch.Generator) -> TaskStatistics:
    """Statistics of made-up features around those of real pictures, so that nothing has to run for each task."""
    spread = base.std(0, unbiased=False)

    def near(centers: Tensor, factor: float) -> Tensor:
        return centers + factor * spread * torch.randn(centers.shape, generator=generator)

    centers = near(base[torch.randint(len(base), (classes,), generator=generator)], 0.5)
    labels = torch.arange(classes).repeat_interleave(SAMPLES_PER_CLASS)
    held_out = centers[torch.randint(classes, (CALIBRATION,), generator=generator)]
    # Held-out features a little further out than the classes' own: with few tasks some images are left to plain CLIP.
    return task_statistics(near(centers[labels], 1.0), labels, classes, near(held_out, 1.15))


def _record(index: int, classes: int, learned: LearnedTask) -> TaskRecord:
    names = [f"t{index:02d} class {label:02d}" for label in range(classes)]
    statistics = learned.statistics
    added = [tensor for pair in learned.experts.values() for tensor in pair]
    added += [*learned.router_weights.values(), *learned.router_biases.values()]
    count = sum(tensor.numel() for tensor in added)
    return TaskRecord(
        index=index,
        name=f"task{index:02d}",
        classes=names,
        display_names=names,
        templates=["a photo of a {}."],
        ids=learned.ids,
        trained_parameters=count,
        kept_parameters=count,
        selector_parameters=statistics.means.numel() + statistics.scatter.numel() + statistics.calibration.numel(),
        source="nowhere (made-up task)",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.make_model", description=__doc__)
    parser.add_argument("out", type=Path, help="model folder to make")
    parser.add_argument("--backbone", default="ViT-B-16", help="open_clip name (random weights), nano or debug")
    parser.add_argument("--tasks", type=int, default=11)
    parser.add_argument("--experts", type=int, default=4, help="experts of a task's router in one block")
    parser.add_argument("--new", type=int, help="how many of them the task brings (default: all)")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--vision-blocks", type=int, default=0, help="adapt the last q image blocks; 0 adapts all")
    parser.add_argument("--text-blocks", type=int, default=0, help="the same of the text; 0 adapts all, -1 none")
    parser.add_argument("--classes", type=int, default=20, help="classes a task")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        config = ModelConfig(
            backbone=given.backbone,
            pretrained=None if given.backbone in (NANO, DEBUG) else RANDOM,
            rank=given.rank,
            vision_blocks=given.vision_blocks,
            text_blocks=given.text_blocks,
        )
    except UsageError as error:
        parser.error(str(error))
    started = time.monotonic()
    new = given.experts if given.new is None else given.new
    try:
        make_model(
            given.out,
            config,
            tasks=given.tasks,
            experts=given.experts,
            new=new,
            classes=given.classes,
            seed=given.seed,
        )
    except UserError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    size = sum(path.stat().st_size for path in given.out.rglob("*") if path.is_file())
    print(f"{given.out}: {size / 2**20:.1f} MiB in {time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
