"""What becomes of images near a selector's threshold: a cliff, a soft band, or all tasks by their posteriors.

    python -m tests.bench.soft_band DATA [--steps 100] [--seeds 2] [--orders 4] [--cache FOLDER]

The band gives each image a factor w on what the experts of its best task add: 0 at the lowest left-out score of that
task and under it, 1 from the threshold on, linear between. Experts are isolated, heads the product's. *All classes*:
nothing is given, after the last task; *unseen*: images of tasks still to come, their own classes given as prompts and
the task chosen by the image, mean over all stages of all orders. Percent on held-out images, then on test images.

Shapes: N images, n tokens, F summary, T tasks, C classes.
"""

import argparse
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from igsp_deploy.config import LearnConfig
from igsp_deploy.model.learned import Learned, LearnedClip
from igsp_deploy.model.selector import Selector, TaskStatistics, task_statistics
from igsp_deploy.names import PLAIN
from igsp_train.research.study.grid import make_orders
from igsp_train.research.study.method import Setting
from igsp_train.research.study.pooled import find_head, split_features
from igsp_train.research.study.tokens import CHUNK, TrunkTokens
from tests.bench.isolated_sets import base_setting, learned_once, open_tasks

SPLITS = ("val", "test")
CLIFF, FLOOR = "cliff at the threshold (the product)", "cliff at the lowest left-out score"
BAND, BAND_ALL = "soft band, the best task's classes", "soft band, in it the classes of all tasks"
BAND_PLAIN = "soft band, in it plain CLIP's words"
BEST, POSTERIOR = "always the best task", "all tasks' probabilities times posteriors (T passes)"
LOGITS, KEPT = "all tasks' logits times posteriors (T passes)", "posteriors, under the threshold plain CLIP (T passes)"

Found = dict[str, dict[str, list[float]]]
"""Row -> column -> percents, of which the mean is told."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """All sets learned: their images, the CLIP with all experts, what the selector keeps, and scores with w = 1."""

    setting: Setting
    tasks: list[TrunkTokens]
    learned: LearnedClip
    statistics: list[TaskStatistics]
    whole: dict[tuple[int, str, int, int, int], Tensor] = field(default_factory=dict)

    def band(self, known: list[int], task: int, split: str) -> tuple[Tensor, Tensor, Tensor]:
        """Of a task's images among the tasks `known`: the best one `[N]`, w `[N]`, and posteriors `[N, T]`."""
        config = self.setting.selector
        selector = Selector.fit(
            [self.statistics[t] for t in known],
            shrinkage=config.shrinkage,
            false_alarm=config.false_alarm,
            background=config.background,
        )
        scores = selector.scores(split_features(self.setting, self.tasks[task], split))
        best, place = scores.max(1)
        low, high = selector.floors[place], selector.thresholds[place]
        w = ((best - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
        return torch.tensor(known)[place], torch.where(best >= high, 1.0, w), scores.softmax(1)

    def scores(self, task: int, split: str, under: int, w: Tensor, rows: Tensor, of: int, words: int) -> Tensor:
        """Of some images of a task under the image experts of `under`: the classes of `of` by the words of `words`."""
        key = (task, split, under, of, words)
        if key not in self.whole:
            everything = torch.arange(len(w))
            self.whole[key] = self._scores(task, split, under, torch.ones_like(w), everything, of, words)
        found, part = self.whole[key][rows], (w[rows] < 1) & (under != PLAIN)
        if part.any():
            found[part] = self._scores(task, split, under, w, rows[part], of, words)
        return found

    def _scores(self, task: int, split: str, under: int, w: Tensor, rows: Tensor, of: int, words: int) -> Tensor:
        tokens, learned = self.tasks[task].splits[split][0], self.learned
        parts = [
            learned.compare(learned.embed(tokens[p], under, w=w[p]), learned.read(tokens[p]), of, words)
            for p in rows.split(CHUNK)
        ]
        return learned.clip.logit_scale * torch.cat(parts)


def learn_all(base: Setting, tasks: list[TrunkTokens], cache: Path) -> Model:
    """Every task on an empty pool, with the product's head and statistics."""
    parts, statistics = [], []
    for task in tasks:
        experts = learned_once(cache, base, task)
        head = find_head(base, task, experts)
        parts.append(Learned(experts=experts, display_names=task.classes, templates=task.templates, head=head))
        read = split_features(base, task, "train")
        kept = base.selector.calibration_images
        statistics.append(task_statistics(read, task.splits["train"][1], len(task.classes), keep=kept))
    learned = LearnedClip(base.backbone, base.sites, parts, head_features=base.model.head_features)
    return Model(setting=base, tasks=tasks, learned=learned, statistics=statistics)


def unseen_right(model: Model, task: int, split: str, best: Tensor, w: Tensor, plain_words: bool) -> float:
    """Images of a task that is not learned, among its own classes, in percent."""
    labels, hit = model.tasks[task].splits[split][1], torch.zeros(len(best), dtype=torch.bool)
    under = torch.where(w > 0, best, PLAIN)
    for one in under.unique().tolist():
        for whole in (True, False):
            rows = ((under == one) & ((w == 1) == whole)).nonzero().flatten()
            words = PLAIN if plain_words and not whole else one
            if len(rows):
                found = model.scores(task, split, one, w, rows, task, words).argmax(1)
                hit[rows] = found == labels[rows]
    return 100 * float(hit.float().mean())


def known_right(model: Model, task: int, split: str, best: Tensor, w: Tensor, all_classes: bool) -> float:
    """Images of a learned task among all classes, in percent; `all_classes`: in the band too, by plain CLIP's words."""
    offset = sum(len(t.classes) for t in model.tasks[:task])
    labels, hit = model.tasks[task].splits[split][1], torch.zeros(len(best), dtype=torch.bool)
    own = (w == 1) if all_classes else (w > 0)
    rows = (own & (best == task)).nonzero().flatten()
    if len(rows):
        hit[rows] = model.scores(task, split, task, w, rows, task, task).argmax(1) == labels[rows]
    under = torch.where(w > 0, best, PLAIN)
    for one in under[~own].unique().tolist():
        rows = (~own & (under == one)).nonzero().flatten()
        hit[rows] = model.scores(task, split, one, w, rows, PLAIN, PLAIN).argmax(1) == labels[rows] + offset
    return 100 * float(hit.float().mean())


def by_posterior(model: Model, task: int, split: str, posterior: Tensor, taken: Tensor) -> dict[str, float]:
    """All tasks' passes put together, in percent; `taken` are the images over the threshold."""
    labels, count = model.tasks[task].splits[split][1], len(model.tasks)
    offset, every, ones = sum(len(t.classes) for t in model.tasks[:task]), torch.arange(len(labels)), posterior * 0 + 1
    logits = [model.scores(task, split, t, ones[:, 0], every, t, t) for t in range(count)]
    shares = torch.cat([x.softmax(1) * posterior[:, t : t + 1] for t, x in enumerate(logits)], 1)
    weighed = torch.cat([x * posterior[:, t : t + 1] for t, x in enumerate(logits)], 1)
    plain = model.scores(task, split, PLAIN, ones[:, 0], every, PLAIN, PLAIN).argmax(1) == labels + offset
    best = shares.argmax(1) == labels + offset
    right = {
        POSTERIOR: best,
        LOGITS: weighed.argmax(1) == labels + offset,
        KEPT: torch.where(taken, best, plain),
        "the task given": logits[task].argmax(1) == labels,
    }
    return {row: 100 * float(hit.float().mean()) for row, hit in right.items()}


def measure(model: Model, orders: list[list[int]], found: Found) -> None:
    """Take in the figures of one seed."""
    everything = list(range(len(model.tasks)))
    for split in SPLITS:
        for task in everything:
            best, w, posterior = model.band(everything, task, split)
            hard, low, full = (w == 1).float(), (w > 0).float(), torch.ones_like(w)
            for row, factor, wide in (
                (CLIFF, hard, False),
                (FLOOR, low, False),
                (BAND, w, False),
                (BAND_ALL, w, True),
                (BEST, full, False),
            ):
                found[row][f"all classes, {split}"].append(known_right(model, task, split, best, factor, wide))
            for row, value in by_posterior(model, task, split, posterior, hard == 1).items():
                found[row][f"all classes, {split}"].append(value)
        for order in orders:
            for count in range(1, len(order)):
                for task in order[count:]:
                    best, w, _ = model.band(order[:count], task, split)
                    hard, low, none = (w == 1).float(), (w > 0).float(), torch.zeros_like(w)
                    for row, factor, plain in (
                        ("plain CLIP", none, False),
                        (CLIFF, hard, False),
                        (FLOOR, low, False),
                        (BAND, w, False),
                        (BAND_PLAIN, w, True),
                        (BEST, none + 1, False),
                    ):
                        found[row][f"unseen, {split}"].append(unseen_right(model, task, split, best, factor, plain))
                    found["share of unseen in the band"][f"unseen, {split}"].append(100 * float((low - hard).mean()))


def main() -> None:
    """Print a row a way."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soft_band", description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--orders", type=int, default=4)
    parser.add_argument("--cache", type=Path, help="keep experts and what the trunk makes of the images here")
    options = parser.parse_args()
    found: Found = defaultdict(lambda: defaultdict(list))
    with TemporaryDirectory() as scratch, torch.no_grad():
        base, cache = base_setting(), options.cache or Path(scratch)
        tasks = open_tasks(options.data, cache, base)
        names = [task.name for task in tasks]
        orders = [[names.index(name) for name in order] for order in make_orders(names, options.orders)]
        for seed in range(options.seeds):
            learn = LearnConfig(steps=options.steps, warmup_steps=options.steps // 10, seed=seed)
            with torch.enable_grad():
                model = learn_all(replace(base, learn=learn), tasks, cache)
            measure(model, orders, found)
    columns = [f"{what}, {split}" for what in ("all classes", "unseen") for split in SPLITS]
    print(f"| % | {' | '.join(columns)} |\n" + "|---" * (len(columns) + 1) + "|")
    for row, cells in found.items():
        values = [cells.get(column) for column in columns]
        print(f"| {row} | {' | '.join('-' if not v else f'{sum(v) / len(v):.1f}' for v in values)} |")


if __name__ == "__main__":
    main()
