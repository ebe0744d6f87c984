"""One run of a study: one method, one seed, one order; measured after every task, and written as one JSON file."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igsp_deploy.config import RunConfig
from igsp_deploy.files import explain_os_error, read_json, write_json
from igsp_deploy.locks import try_lock
from igsp_train.research.baselines.registry import METHODS
from igsp_train.research.baselines.zero_shot import predictor
from igsp_train.research.study.method import STRUCTURE, Predict, Setting, Stage
from igsp_train.research.study.tokens import TrunkTokens

FORMAT = 1
SPLITS = ("val", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunKey:
    """What tells one run from another.

    Attributes:
        label: name of the settings, for tables.
        method: name of the method.
        seed: seed of learning.
        order: names of the tasks, in the order they are learned.
        config: all settings; the seed in it is overridden.
    """

    label: str
    method: str
    seed: int
    order: tuple[str, ...]
    config: RunConfig

    def file_name(self, keys: dict[str, str]) -> str:
        """Name of the run's file: readable, and different for other settings or other images (`keys` of the tasks)."""
        model, learn = dataclasses.asdict(self.config.model), dataclasses.asdict(self.config.learn)
        for name in (
            "seed",
            "checkpoint_every",
            "epochs",
            *(() if METHODS[self.method].prunes else STRUCTURE),
        ):
            del learn[name]
        content = [FORMAT, self.method, self.seed, [[n, keys[n]] for n in self.order], model, learn]
        content.append(dataclasses.asdict(self.config.selector))
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]
        return f"{self.method}-s{self.seed}-{digest}.json"


def measure(setting: Setting, key: RunKey, tasks: list[TrunkTokens]) -> dict[str, Any]:
    """Learn and measure.

    Args:
        setting: with the seed of this run.
        key: which run it is.
        tasks: in its order.

    Returns:
        `accuracy`: split -> A[j][i] in percent with the task given; per task `trained_phase1`, `trained_phase2`,
        `kept`, `seconds` and `details`; `words`: split -> accuracy of each task in the end by its words alone, where it
        has a head beside them; and what identifies the run.
    """
    method = METHODS[key.method]
    plain = predictor(setting, {})
    matrices = {split: np.zeros((len(tasks), len(tasks))) for split in SPLITS}
    zero_shot = {split: [accuracy(plain, task, split) for task in tasks] for split in SPLITS}
    stages: list[Stage] = []
    seconds: list[float] = []
    started = time.monotonic()
    for j, stage in enumerate(method.learn(setting, tasks)):
        seconds.append(round(time.monotonic() - started, 1))
        for split, matrix in matrices.items():
            for i, task in enumerate(tasks):
                if method.changes_old or i == j:
                    matrix[j, i] = accuracy(stage.predict, task, split)
                else:
                    matrix[j, i] = zero_shot[split][i] if i > j else matrix[j - 1, i]
        stages.append(stage)
        started = time.monotonic()
    words = stages[-1].words
    alone = {} if words is None else {split: [accuracy(words, task, split) for task in tasks] for split in SPLITS}
    return {
        "format": FORMAT,
        "method": key.method,
        "seed": key.seed,
        "order": list(key.order),
        "model": dataclasses.asdict(setting.model),
        "learn": dataclasses.asdict(setting.learn),
        "accuracy": {split: np.round(matrix, 3).tolist() for split, matrix in matrices.items()},
        "zero_shot": {split: np.round(values, 3).tolist() for split, values in zero_shot.items()},
        "words": {split: np.round(values, 3).tolist() for split, values in alone.items()},
        "trained_phase1": [stage.trained_phase1 for stage in stages],
        "trained_phase2": [stage.trained_phase2 for stage in stages],
        "kept": [stage.kept for stage in stages],
        "seconds": seconds,
        "details": [stage.details for stage in stages],
    }


def accuracy(predict: Predict, task: TrunkTokens, split: str) -> float:
    """Share of a split's images that are classified rightly, in percent."""
    right = sum(int((predict(task, tokens) == labels).sum()) for tokens, labels in task.chunks(split))
    return 100.0 * right / max(len(task.splits[split][1]), 1)


def reorder(run: dict[str, Any], order: tuple[str, ...]) -> dict[str, Any]:
    """The same run as if its tasks had come in another order; only for methods whose results do not depend on it."""
    place = [run["order"].index(name) for name in order]
    matrices = {}
    for split, values in run["accuracy"].items():
        own: NDArray[np.float64] = np.diag(np.array(values))[place]
        zero_shot = np.array(run["zero_shot"][split])[place]
        size = len(order)
        matrices[split] = [[float(own[i] if i <= j else zero_shot[i]) for i in range(size)] for j in range(size)]
    moved: dict[str, Any] = {**run, "order": list(order), "accuracy": matrices}
    for key in ("trained_phase1", "trained_phase2", "kept", "seconds", "details"):
        moved[key] = [run[key][i] for i in place]
    for key in ("zero_shot", "words"):  # older runs lack the second
        moved[key] = {split: [values[i] for i in place] for split, values in run.get(key, {}).items()}
    return moved


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether this process may make the run of `path`; False while another one is at it."""
    lock = path.with_suffix(".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain_os_error(error, lock) from error
    with try_lock(lock) as ours:
        yield ours


def load_run(path: Path) -> dict[str, Any] | None:
    """A finished run, or None.

    Raises:
        UserError: the file is damaged.
    """
    if not path.exists():
        return None
    run: dict[str, Any] = read_json(path, "run of a study")
    return run


def save_run(path: Path, run: dict[str, Any]) -> None:
    """Write a finished run, whole or not at all."""
    write_json(path, run)
