"""Heads of a task on the same experts: what the product has, and what was tried in its place; the task given.

    python -m tests.bench.heads DATA [--steps 100 300] [--seeds 2] [--rows same anew folds] [--cache FOLDER]

DATA holds one folder a task, as `igsp train` reads them; at least 20 images of each must be held out. Embedded
backbone, experts in the upper three image blocks and in the text tower, isolated: every task is learned on an empty
pool. Weights of blends, strengths and factors are chosen by the loss on held-out images, as the product chooses its
own; so the column `validation` is kind to rows that choose more. Of means over sets each seed's too. `same` are the
rows on one set of experts; `anew` and `folds` learn others, for as many steps or for twice as many.

Shapes: N images, n tokens, d width, D embedding, F summary, C classes.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from igsp_deploy.config import LearnConfig
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.experts import SiteExperts
from igsp_deploy.model.fourier import BANDWIDTH, directions, fourier
from igsp_deploy.model.selector import task_statistics
from igsp_train.data.order import batch_indices
from igsp_train.head import STRENGTH, WEIGHTS, RidgeSums, best_weight, spread_of
from igsp_train.optimiser import learning_rate_factor, set_learning_rate
from igsp_train.research.study.method import Setting
from igsp_train.research.study.pooled import find_head
from igsp_train.research.study.tokens import CHUNK, TrunkTokens
from tests.bench.isolated_sets import Seen, base_setting, learn, learned_once, look, open_clip, open_tasks, views_of

FACTORS = (0.6, 0.8, 1.0, 1.2)
"""Of a task's image experts, in the row that chooses one (arXiv 2109.01903)."""
NEARNESS = (0.3, 1.0, 3.0, 10.0)
"""How strongly the solved projection is held to CLIP's own, relative to the mean of the Gram matrix' diagonal."""
EXPERTS_SHARE = 0.6
"""Share of the steps that learn experts, where class vectors alone learn in the others."""
RANDOM_FEATURES = (1024, 2048)
"""Of another kind: twice as many as the summary has numbers, and more."""
BANDWIDTHS = (0.5, 1.0, 1.4)
"""Of Fourier features, besides the product's."""

Scores = dict[str, Tensor]
"""Split -> scores `[N, C]`."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A task that was learned: its experts, and all its images under them; `train` with the views learning has seen."""

    setting: Setting
    task: TrunkTokens
    experts: SiteExperts
    train: Seen
    val: Seen
    test: Seen

    def scores(self, of: str, vectors: Tensor, bias: Tensor | float = 0.0) -> Scores:
        """Products of what is called `of` with class vectors."""
        return {split: getattr(getattr(self, split), of) @ vectors.T + bias for split in ("val", "test")}

    @property
    def words(self) -> Scores:
        """Those of the words alone."""
        return {"val": self.val.words, "test": self.test.words}

    def blend(self, ridge: Scores, words: Scores | None = None) -> Scores:
        """Words and other scores, spread alike and weighed as the product does."""
        words = words or self.words
        factor = spread_of(words["val"]) / spread_of(ridge["val"])
        weight = best_weight(words["val"], ridge["val"], self.val.labels, WEIGHTS)
        return {split: (1 - weight) * words[split] + weight * factor * ridge[split] for split in words}


def make_case(setting: Setting, task: TrunkTokens, experts: SiteExperts) -> Case:
    """Look at all images of a task under its experts."""
    learned = open_clip(setting, task, experts)
    splits = {"train": views_of(setting, task), **{split: task.splits[split] for split in ("val", "test")}}
    return Case(setting=setting, task=task, experts=experts, **{s: look(learned, *x) for s, x in splits.items()})


def ridge(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """The product's ridge, `[C, F]`."""
    sums = RidgeSums(num_classes, features.shape[1])
    sums.add(features, labels)
    return sums.solve()


def trunk_ridge(case: Case, of: str = "read") -> Scores:
    """The product's, before it is weighed, or that on another field of `Seen`."""
    return case.scores(of, ridge(getattr(case.train, of), case.train.labels, len(case.task.classes)))


def product(case: Case) -> Scores:
    """Words and the head that `igsp train` gives."""
    head, words = find_head(case.setting, case.task, case.experts), case.words
    if head is None or head.vectors is None:
        return words
    scale = case.setting.clip.logit_scale
    return {s: head.text_share * words[s] + scale * x for s, x in case.scores("read", head.vectors).items()}


def adapted(case: Case) -> Scores:
    """Ridge on the adapted embedding."""
    vectors = ridge(case.train.embedding, case.train.labels, len(case.task.classes))
    return case.blend(case.scores("embedding", vectors))


def cross_fitted(case: Case) -> Scores:
    """The same, each half of the training images seen through experts that learned from the other half."""
    tokens, labels = case.task.splits["train"]
    place = torch.empty_like(labels)
    place[labels.argsort(stable=True)] = torch.arange(len(labels)) % 2
    sums = RidgeSums(len(case.task.classes), case.train.embedding.shape[1])
    halves = []
    for rows in ((place == 0).nonzero().flatten(), (place == 1).nonzero().flatten()):
        splits = {**case.task.splits, "train": (tokens[rows], labels[rows])}
        halves.append(replace(case.task, views=case.task.views[:, rows], splits=splits))
    for own, other in (halves, halves[::-1]):
        seen = look(open_clip(case.setting, own, learn(case.setting, own)), *views_of(case.setting, other))
        sums.add(seen.embedding, seen.labels)
    return case.blend(case.scores("embedding", sums.solve()))


def residual(case: Case, under: str) -> Scores:
    """Ridge from the summary to what words leave: one-hot less their probabilities."""
    x, count = case.train.summary.double(), len(case.task.classes)
    left = F.one_hot(case.train.labels, count).double() - getattr(case.train, under).double().softmax(1)
    gram = x.T @ x
    held = gram + STRENGTH * float(gram.diagonal().mean()) * torch.eye(len(gram))
    return case.blend(case.scores("summary", torch.linalg.solve(held, x.T @ left).T.float()))


def gda(case: Case) -> Scores:
    """Gaussians of one shrunk covariance on the summary (arXiv 2402.04087)."""
    x, labels, count = case.train.summary, case.train.labels, len(case.task.classes)
    found = task_statistics(x, labels, count)
    covariance = found.scatter.double() / found.count
    covariance = (1 - STRENGTH) * covariance
    covariance.diagonal().add_(STRENGTH / (1 - STRENGTH) * float(covariance.diagonal().mean()))
    vectors = torch.linalg.solve(covariance, found.means.double().T).T
    bias = (found.sizes / len(labels)).log() - 0.5 * (vectors * found.means.double()).sum(1)
    return case.blend(case.scores("summary", vectors.float(), bias.float()))


def on_features(case: Case, make: Callable[[Tensor], Tensor]) -> Scores:
    """Ridge on what is made of the summary."""
    vectors = ridge(make(case.train.summary), case.train.labels, len(case.task.classes))
    return case.blend({s: make(getattr(case, s).summary) @ vectors.T for s in ("val", "test")})


def rectified(case: Case, count: int) -> Scores:
    """Rectified random products, the same of all tasks (arXiv 2307.02251)."""
    width, generator = case.train.summary.shape[1], torch.Generator().manual_seed(case.setting.learn.seed)
    drawn = torch.randn(width, count, generator=generator) * width**-0.5
    return on_features(case, lambda summary: (summary @ drawn).relu())


def waves(case: Case) -> Iterator[tuple[str, Scores]]:
    """Fourier features of other bandwidths, and of half of the directions."""
    columns = directions(case.train.summary.shape[1])
    for bandwidth in BANDWIDTHS:
        other = columns * (bandwidth / BANDWIDTH)
        yield f"Fourier features of bandwidth {bandwidth}", on_features(case, partial(fourier, columns=other))
    half = columns[:, : len(columns) // 2]
    yield "half as many Fourier features", on_features(case, partial(fourier, columns=half))


def factor(case: Case) -> Scores:
    """A factor on the image experts, then the product's head."""
    learned = open_clip(case.setting, case.task, case.experts)
    held_out = [look(learned, *case.task.splits["val"], w=w) for w in FACTORS]
    losses = [float(F.cross_entropy(seen.words, seen.labels)) for seen in held_out]
    best = losses.index(min(losses))
    words = {"val": held_out[best].words, "test": look(learned, *case.task.splits["test"], w=FACTORS[best]).words}
    return case.blend(trunk_ridge(case), words)


def class_vectors_last(case: Case) -> Iterator[tuple[str, Scores]]:
    """The last steps train class vectors alone, started from the words under the experts."""
    config, count = case.setting.learn, len(case.task.labels)
    first = round(EXPERTS_SHARE * config.steps)
    short = make_case(case.setting, case.task, learn(case.setting, case.task, first))
    scale = case.setting.clip.logit_scale
    vectors = open_clip(case.setting, case.task, short.experts).class_vectors(0).clone().requires_grad_()
    optimiser = torch.optim.AdamW([{"params": [vectors], "base": config.learning_rate}], weight_decay=0.0)
    views = len(short.train.labels) // count - 1
    for step in range(config.steps - first):
        rows = batch_indices(count, config.batch_size, first + step, config.seed)
        epochs = ((first + step) * config.batch_size + np.arange(config.batch_size)) // count
        picked = torch.from_numpy((1 + epochs % views) * count + rows)
        logits = scale * short.train.embedding[picked] @ vectors.T
        loss = F.cross_entropy(logits, short.train.labels[picked], label_smoothing=config.label_smoothing)
        set_learning_rate(optimiser, learning_rate_factor(step, config.steps - first, 0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    scores = short.scores("embedding", scale * vectors.detach())
    yield "class vectors alone in the last 40 % of the steps", scores
    yield "the same, blended with the product's ridge", short.blend(trunk_ridge(short), scores)


def expert_zero(case: Case) -> Iterator[tuple[str, Scores]]:
    """The last projection is solved first, then experts are learned under it."""
    setting = replace(case.setting, backbone=solve_projection(case))
    solved = make_case(setting, case.task, learn(setting, case.task))
    yield "projection solved first, words alone", solved.words
    yield "the same, with the product's head", product(solved)


def solve_projection(case: Case) -> Backbone:
    """A backbone whose last projection is CLIP's plus a ridge of what it leaves to the words, of rank C at most."""
    setting, task = case.setting, case.task
    bare = copy.deepcopy(setting.backbone)
    bare.clip.visual.proj = None
    tower = replace(setting, backbone=bare).clip.vision
    with torch.no_grad():
        read = {
            split: torch.cat([tower(part, part, {}) for part in tokens.split(CHUNK)])
            for split, tokens in {"train": views_of(setting, task)[0], "val": task.splits["val"][0]}.items()
        }
        own = setting.backbone.clip.visual.proj.detach()
        words = open_clip(setting, task, {}).class_vectors(0)
        now = read["train"] @ own
        left = now.norm(dim=1).mean() * words[case.train.labels] - now
        gram = read["train"].T @ read["train"]
        best, lowest = own, float(F.cross_entropy(case.val.plain, case.val.labels))
        for strength in NEARNESS:
            held = gram + strength * float(gram.diagonal().mean()) * torch.eye(len(gram))
            change = torch.linalg.solve(held, read["train"].T @ left)
            axes = torch.linalg.svd(read["train"] @ change, full_matrices=False).Vh[: len(task.classes)]
            moved = own + change @ axes.T @ axes
            logits = setting.clip.logit_scale * F.normalize(read["val"] @ moved, dim=1) @ words.T
            loss = float(F.cross_entropy(logits, case.val.labels))
            best, lowest = (moved, loss) if loss < lowest else (best, lowest)
    backbone = copy.deepcopy(setting.backbone)
    backbone.clip.visual.proj = torch.nn.Parameter(best, requires_grad=False)
    return backbone


def same(case: Case) -> Iterator[tuple[str, Scores]]:
    """Rows on the experts of the case, by name."""
    yield "words alone", case.words
    yield "**the product's: ridge on Fourier features of the trunk's summary**", product(case)
    yield "ridge on the summary itself", case.blend(trunk_ridge(case, "summary"))
    yield "ridge on the adapted embedding", adapted(case)
    for under, name in (("words", "the words under the experts"), ("plain", "plain CLIP's words")):
        yield f"ridge to what {name} leave", residual(case, under)
    yield "GDA on the summary", gda(case)
    for count in RANDOM_FEATURES:
        yield f"{count:,} rectified random products of the summary", rectified(case, count)
    yield from waves(case)
    yield "a factor on the experts, then the product's ridge", factor(case)


def anew(case: Case) -> Iterator[tuple[str, Scores]]:
    """Rows that learn other experts."""
    yield from class_vectors_last(case)
    yield from expert_zero(case)


def folds(case: Case) -> Iterator[tuple[str, Scores]]:
    """The row that learns experts twice more."""
    yield "ridge on the adapted embedding, cross-fitted by two folds", cross_fitted(case)


ROWS: dict[str, Callable[[Case], Iterator[tuple[str, Scores]]]] = {"same": same, "anew": anew, "folds": folds}


def table(names: list[str], found: dict[str, list[list[tuple[float, float]]]]) -> str:
    """Markdown of row -> seed -> set -> validation and test accuracy."""
    lines = ["| % right, task given | " + " | ".join([*names, "mean", "validation"]) + " |"]
    lines.append("|---" * (len(names) + 3) + "|")
    for row, seeds in found.items():
        values = np.array(seeds)
        cells = [f"{value:.1f}" for value in values[:, :, 1].mean(0)]
        for column in (1, 0):
            means = values[:, :, column].mean(1)
            each = f" ({', '.join(f'{value:.1f}' for value in means)})" if len(means) > 1 else ""
            cells.append(f"{means.mean():.1f}{each}")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print a table for each number of steps, and each set's figures on the way."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.heads", description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 300])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--cache", type=Path, help="keep experts and what the trunk makes of the images here")
    options = parser.parse_args()
    with TemporaryDirectory() as scratch:
        base, cache = base_setting(), options.cache or Path(scratch)
        tasks = open_tasks(options.data, cache, base)
        for steps in options.steps:
            found: dict[str, list[list[tuple[float, float]]]] = {}
            for seed in range(options.seeds):
                setting = replace(base, learn=LearnConfig(steps=steps, warmup_steps=steps // 10, seed=seed))
                for task in tasks:
                    case = make_case(setting, task, learned_once(cache, setting, task))
                    for row, scores in (pair for name in options.rows for pair in ROWS[name](case)):
                        val, test = (_right(scores[s], getattr(case, s).labels) for s in ("val", "test"))
                        found.setdefault(row, [[] for _ in range(options.seeds)])[seed].append((val, test))
                        print(f"{steps} {seed} {task.name}: {row}: {val:.1f} {test:.1f}", file=sys.stderr, flush=True)
            print(f"\n{steps} steps, {options.seeds} seeds\n\n{table([t.name for t in tasks], found)}", flush=True)


def _right(scores: Tensor, labels: Tensor) -> float:
    return 100 * float((scores.argmax(1) == labels).float().mean())


if __name__ == "__main__":
    main()
