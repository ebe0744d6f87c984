"""What settings of learning are worth on real sets: imbalanced ones, or ones of few images.

    python -m tests.bench.data_settings FOLDER... [--ratio 10] [--images 5] [--steps 100] [--seeds 2]
        --setting "" --setting data.balance=classes --setting "data.augment=trivial learn.cached_views=8"

Each FOLDER is a set with `train` and `test`. A quarter of each class's training images is set aside to choose by. Of
the others `--images` a class are learned from (0: all), and with `--ratio` R the classes, in an order drawn anew for
each seed, keep from all to 1/R of these, in a geometric series. Embedded backbone, experts in the upper three image
blocks; a task is learned as `igsp train` learns it, from trunk outputs that all settings share. Columns: right as the
classes are frequent where it was learned, mean over the classes, worst class, in percent, means over sets and seeds;
of the images set aside, and of `test`.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igsp_deploy.checked import build
from igsp_deploy.config import RunConfig, apply_overrides
from igsp_deploy.data import TaskData, load_task_data
from igsp_deploy.data.items import ImageRef, Items
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.clip import Clip
from igsp_deploy.model.experts import frozen
from igsp_deploy.model.learned import Learned, LearnedClip
from igsp_deploy.model.loading import load_backbone
from igsp_train.data.views import TrainViews
from igsp_train.features import TrunkViews, trunk_and_labels, views_seen
from igsp_train.head import FEW, FOLDS, MEASURED, task_head
from igsp_train.learn import TaskRun
from igsp_train.prune import LOSS_IMAGES
from igsp_train.research.study.method import Setting
from igsp_train.research.study.pooled import scratch_folder
from igsp_train.statistics import spread

ASIDE = 4
"""One of so many images of a class is set aside."""


def share_out(source: Path, target: Path, images: int, ratio: float, seed: int) -> dict[str, list[list[Path]]]:
    """Link what is learned from into `target/train`; files of each class that are set aside, and of `test`."""
    random = np.random.default_rng(seed)
    names = sorted(path.name for path in (source / "train").iterdir() if path.is_dir())
    places = random.permutation(len(names)).tolist()
    found: dict[str, list[list[Path]]] = {"aside": [], "test": []}
    for name, place in zip(names, places, strict=True):
        files = sorted((source / "train" / name).iterdir())
        files = [files[i] for i in random.permutation(len(files)).tolist()]
        aside = len(files) // ASIDE
        found["aside"].append(files[:aside])
        found["test"].append(sorted((source / "test" / name).iterdir()))
        count = min(images or len(files), len(files) - aside)
        keep = max(1, round(count * ratio ** (-place / max(1, len(names) - 1))))
        (target / "train" / name).mkdir(parents=True)
        for file in files[aside : aside + keep]:
            (target / "train" / name / file.name).symlink_to(file.resolve())
    if (source / "classes.json").is_file():
        (target / "classes.json").symlink_to((source / "classes.json").resolve())
    return found


class Bench:
    """The backbone, and what its trunk made of images so far."""

    def __init__(self) -> None:
        self.backbone: Backbone = load_backbone("nano")
        self._tokens: dict[Path, Tensor] = {}
        self._views: dict[tuple[object, ...], TrunkViews] = {}

    def tokens(self, clip: Clip, images: Sequence[ImageRef]) -> Tensor:
        """Trunk tokens of images, files all of them, as they are."""
        files = [image.resolve() for image in images if isinstance(image, Path)]
        new = [file for file in files if file not in self._tokens]
        read = trunk_and_labels(clip, Items(list(new), np.zeros(len(new), np.int64)), self.backbone.preprocess)
        if read is not None:
            self._tokens.update(zip(new, read[0], strict=True))
        return torch.stack([self._tokens[file] for file in files])

    def views(self, setting: Setting, task: TaskData, config: RunConfig, key: tuple[object, ...]) -> TrunkViews:
        """Trunk tokens of augmented images; as far as they were made for a setting of the same views, those."""
        data, learn = config.data, config.learn
        cached = views_seen(learn.cached_views, len(task.train), learn.steps, learn.batch_size)
        key = (*key, data.augment, data.crop_scale, data.horizontal_flip, cached)
        if key not in self._views:
            self._views.clear()
            views = TrainViews(
                task.train,
                self.backbone.preprocess,
                scale=(data.crop_scale, 1.0),
                horizontal_flip=data.horizontal_flip,
                augment=data.augment,
                seed=learn.seed,
            )
            clip = Clip(self.backbone, setting.sites, exact=False)
            self._views[key] = TrunkViews(clip, views, cached_views=cached, limit_bytes=2 << 30)
        return self._views[key]

    def learn(self, task: TaskData, config: RunConfig, key: tuple[object, ...]) -> LearnedClip:
        """The task as `igsp train` learns it into an empty model."""
        learn, balanced = config.learn, config.data.balance == "classes"
        setting = Setting(backbone=self.backbone, model=config.model, learn=learn, selector=config.selector)
        views, clip = self.views(setting, task, config, key), setting.clip
        train, labels = self.tokens(clip, task.train.images), torch.from_numpy(task.train.labels)
        rows = spread(len(task.val), LOSS_IMAGES)
        val = task.val.subset(rows)
        held = (self.tokens(clip, val.images), torch.from_numpy(val.labels)) if len(val) else None
        with scratch_folder(setting) as folder:
            result = TaskRun(
                self.backbone,
                folder,
                learn,
                views=views,
                labels=task.train.labels,
                prompts=[task.templates[0].format(name) for name in task.display_names],
                fingerprint="",
                held_out=held,
                balanced=balanced,
            ).run()
        experts = frozen(result.learner.experts(), "cpu")
        own = Learned(experts=experts, display_names=task.display_names, templates=task.templates)
        learned = LearnedClip(self.backbone, setting.sites, [own], head_features=setting.model.head_features)
        with torch.no_grad():
            seen = (clip.summary(train), labels)
            read = [clip.summary(part) for part in views.seen(learn.steps, learn.batch_size)]
        if learn.head == "text":
            return learned
        folds = None
        if held is None or len(held[1]) < FEW:
            rows = spread(len(labels), MEASURED)
            held, folds = (train[rows], labels[rows]), torch.from_numpy(rows) % FOLDS
        head = task_head(learned, seen, read, held, folds=folds)
        own = Learned(experts=experts, display_names=task.display_names, templates=task.templates, head=head)
        return LearnedClip(self.backbone, setting.sites, [own], head_features=setting.model.head_features)

    def right(self, learned: LearnedClip, files: list[list[Path]]) -> NDArray[np.float64]:
        """Share of right answers of each class, in percent."""
        found = []
        for number, own in enumerate(files):
            best = learned.predict(self.tokens(learned.clip, own), 0).argmax(1)
            found.append(100.0 * float((best == number).float().mean()))
        return np.array(found)

    def measure(self, source: Path, setting: str, options: argparse.Namespace, seed: int) -> list[float]:
        """The six columns of a set, a setting and a seed."""
        with TemporaryDirectory() as scratch:
            parts = share_out(source, Path(scratch), options.images, options.ratio, seed)
            fixed = ["model.vision_blocks=3", f"learn.seed={seed}", f"learn.steps={options.steps}"]
            fixed += [f"learn.warmup_steps={options.steps // 10}", f"learn.checkpoint_every={options.steps + 1}"]
            config = build(RunConfig, apply_overrides({}, [*fixed, *setting.split()]), setting)
            task = load_task_data("set", scratch, val_share=config.data.val_share, test_share=0.0)
            learned = self.learn(task, config, (source, seed))
            shares = np.bincount(task.train.labels) / len(task.train)
        found: list[float] = []
        for split in ("aside", "test"):
            each = self.right(learned, parts[split])
            found += [float(each @ shares), float(each.mean()), float(each.min())]
        return found


def main() -> None:
    """Print a row a setting, and with `--each` one of every set."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.data_settings", description=__doc__.split("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--ratio", type=float, default=1.0, help="images of the largest class over the smallest one's")
    parser.add_argument("--images", type=int, default=0, help="images of the largest class; 0 takes all")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--each", action="store_true", help="print every set by itself too")
    parser.add_argument("--setting", action="append", help="what `igsp train --set` takes, several with blanks between")
    options = parser.parse_args()
    bench, settings = Bench(), options.setting or [""]
    print("| setting | aside: as learned | a class | worst class | test: as learned | a class | worst class |")
    print("|---" * 7 + "|")
    rows: dict[str, list[list[float]]] = {setting: [] for setting in settings}
    for folder in options.folders:
        for seed in range(options.seeds):
            for setting in settings:
                begun = time.process_time()
                rows[setting].append(bench.measure(folder, setting, options, seed))
                if options.each:
                    cells = " | ".join(f"{value:.1f}" for value in rows[setting][-1])
                    spent = time.process_time() - begun
                    print(f"| {folder.name}, seed {seed}, `{setting}`, {spent:.0f} s | {cells} |", flush=True)
    for setting, own in rows.items():
        print(f"| `{setting or 'default'}` | {' | '.join(f'{value:.1f}' for value in np.mean(own, 0))} |", flush=True)


if __name__ == "__main__":
    main()
