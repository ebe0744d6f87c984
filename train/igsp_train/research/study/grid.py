"""A study: every combination of settings, method, seed and order that is not on disk yet is run, one file each."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from igsp_deploy.config import RunConfig
from igsp_deploy.errors import UserError
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.loading import load_backbone
from igsp_train.data.order import seeded
from igsp_train.research.baselines.registry import METHODS
from igsp_train.research.study.method import Setting
from igsp_train.research.study.run import RunKey, claimed, load_run, measure, reorder, save_run
from igsp_train.research.study.selectors import KINDS, measure_selector, read_place, score_stages
from igsp_train.research.study.tokens import TrunkTokens, load_tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study consists of.

    Attributes:
        settings: label -> settings.
        methods: names of methods.
        seeds: seeds of learning.
        orders: orders of the tasks.
        sources: task name -> folder or manifest.
    """

    settings: dict[str, RunConfig]
    methods: list[str]
    seeds: list[int]
    orders: list[tuple[str, ...]]
    sources: dict[str, str]

    def run_keys(self) -> Iterator[RunKey]:
        """All runs; those of the first seed and order of all methods come first."""
        for seed in self.seeds:
            for order in self.orders:
                for label, config in self.settings.items():
                    for method in self.methods:
                        yield RunKey(label=label, method=method, seed=seed, order=order, config=config)


def make_orders(names: list[str], num_orders: int) -> list[tuple[str, ...]]:
    """The order given and `num_orders - 1` other ones, shuffled, always the same for the same names.

    Raises:
        UserError: there are not that many orders.
    """
    if num_orders > math.factorial(len(names)):
        raise UserError(f"{len(names)} tasks have {math.factorial(len(names))} orders, got --orders {num_orders}.")
    orders = [tuple(names)]
    number = 0
    while len(orders) < num_orders:
        number += 1
        shuffled = tuple(names[i] for i in seeded(number).permutation(len(names)))
        if shuffled not in orders:
            orders.append(shuffled)
    return orders


def check_plan(plan: Plan) -> None:
    """Refuse unknown methods, orders that are not permutations of the tasks, and settings that no study follows.

    Raises:
        UserError: says which.
    """
    for method in plan.methods:
        if method not in METHODS:
            raise UserError(f"there is no method {method!r}. Known: {', '.join(METHODS)}.")
    if len(plan.sources) < 2:
        raise UserError("a study needs at least two tasks, for example --task shoes=data/shoes --task bags=data/bags")
    for config in plan.settings.values():
        if config.learn.epochs or config.data.balance != "none":
            raise UserError(
                "a study takes the same steps and the images as they are for all methods: leave learn.epochs and "
                "data.balance out, and give learn.steps"
            )
    for order in plan.orders:
        if sorted(order) != sorted(plan.sources):
            raise UserError(
                f"the order {','.join(order)} must name every task once: {','.join(plan.sources)}. "
                "Separate the names with commas."
            )


class Study:
    """A folder of finished runs (`runs/`) and of what the trunk makes of the images (`tokens/`, may be deleted)."""

    def __init__(self, path: Path, plan: Plan, *, console: Console) -> None:
        """Check the plan.

        Raises:
            UserError: the plan is wrong.
        """
        check_plan(plan)
        self.path = path
        self.plan = plan
        self.console = console
        self._backbones: dict[tuple[str, str | None, str | None], Backbone] = {}
        self._tokens: dict[tuple[Any, ...], TrunkTokens] = {}

    def run(self, max_runs: int | None = None) -> int:
        """Make the runs that are missing, at most `max_runs`; returns how many are still missing afterwards.

        A run that another process is making is passed over; give the command again to see it.
        """
        done, missing = 0, 0
        for key in self.plan.run_keys():
            path = self._path(key)
            if path.exists():
                continue
            if max_runs is not None and done >= max_runs:
                missing += 1
                continue
            with claimed(path) as mine:
                if not mine or path.exists():
                    missing += not mine
                    continue
                self._say(f"{key.label}: {key.method}, seed {key.seed}, order {', '.join(key.order)}")
                self._make(key, path)
                done += 1
        return missing

    def finished(self) -> list[tuple[RunKey, dict[str, Any]]]:
        """All runs of the plan that are on disk, in the order of their keys."""
        found = []
        for key in self.plan.run_keys():
            run = load_run(self._path(key))
            if run is not None:
                found.append((key, run if METHODS[key.method].reads_order else reorder(run, key.order)))
        return found

    def compare_selectors(self) -> list[dict[str, Any]]:
        """Every place and kind of selector on the plan's tasks and orders; nothing is learned.

        Returns:
            Rows with `place`, `kind` and what `measure_selector` measures.
        """
        config = next(iter(self.plan.settings.values()))
        setting = self._setting(config, 0)
        first = setting.first_block
        middle = (first + setting.backbone.vision_depth) // 2
        places = {
            f"block {first}": ("trunk", first),
            f"block {middle}": ("trunk", middle),
            "embedding": ("embedding", 0),
        }
        reads = {
            title: {name: read_place(setting, self._task(name, config), *place) for name in self.plan.sources}
            for title, place in places.items()
        }
        scored = {
            (title, kind): score_stages(read, self.plan.orders, kind, config.selector)
            for title, read in reads.items()
            for kind in KINDS
        }
        rows = []
        for titles in [*((title,) for title in places), *itertools.combinations(places, 2)]:
            for kind in KINDS:
                figures = measure_selector([scored[title, kind] for title in titles], config.selector)
                rows.append({"place": " + ".join(titles), "kind": kind, **figures})
        return rows

    def _setting(self, config: RunConfig, seed: int) -> Setting:
        learn = dataclasses.replace(config.learn, seed=seed)
        return Setting(backbone=self._backbone(config), model=config.model, learn=learn, selector=config.selector)

    def _make(self, key: RunKey, path: Path) -> None:
        setting = self._setting(key.config, key.seed)
        order = key.order if METHODS[key.method].reads_order else tuple(sorted(key.order))
        key = dataclasses.replace(key, order=order)
        tasks = [self._task(name, key.config) for name in key.order]
        torch.manual_seed(key.seed)
        run = measure(setting, key, tasks)
        save_run(path, run)
        last = sum(run["accuracy"]["test"][-1]) / len(tasks)
        self._say(f"  Last {last:.1f} %, kept {sum(run['kept']):,}, {sum(run['seconds']):.0f} s")

    def _path(self, key: RunKey) -> Path:
        order = key.order if METHODS[key.method].reads_order else tuple(sorted(key.order))
        keys = {name: self._task(name, key.config).key for name in order}
        return self.path / "runs" / dataclasses.replace(key, order=order).file_name(keys)

    def _backbone(self, config: RunConfig) -> Backbone:
        name = (config.model.backbone, config.model.pretrained, config.model.preprocess)
        if name not in self._backbones:
            self._backbones[name] = load_backbone(*name)
        return self._backbones[name]

    def _task(self, name: str, config: RunConfig) -> TrunkTokens:
        backbone = self._backbone(config)
        first = Setting(backbone=backbone, model=config.model, learn=config.learn, selector=config.selector).first_block
        views = max(1, config.learn.cached_views)
        place = (name, backbone.weight_hash, first, config.data, views)
        if place not in self._tokens:
            self._tokens[place] = load_tokens(
                self.path / "tokens", name, self.plan.sources[name], backbone, first, config.data, views
            )
        return self._tokens[place]

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
