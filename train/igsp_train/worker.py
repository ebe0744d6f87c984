"""`python -m igsp_train.worker MODEL --task NAME=SOURCE`: learn tasks and tell every step on stdout, for a program.

One JSON object a line: `{"event": "step", "task": ..., "step": ..., "phase": ..., "loss": ...}` after every step and
`{"event": "learned", "task": ..., ...}` after every task. SIGTERM ends it at once; what was learned before stays.
"""

import argparse
import dataclasses
import json
import signal
import sys
from typing import Any

from igsp_deploy.checked import build
from igsp_deploy.config import RunConfig, apply_overrides
from igsp_deploy.errors import UserError
from igsp_train.commands.tasks import parse_tasks

SHOWN = ("val_accuracy", "val_zero_shot", "experts_new", "experts_reused", "phase1_steps", "seconds")
"""What is told of a learned task."""


def main(arguments: list[str] | None = None) -> int:
    """Learn; returns the exit code."""
    # As an exception: scratch folders are removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    parser = argparse.ArgumentParser(prog="python -m igsp_train.worker")
    parser.add_argument("model")
    parser.add_argument("--task", action="append", required=True, metavar="NAME=SOURCE")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    options = parser.parse_args(arguments)
    try:
        learn(options.model, options.task, options.set)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def learn(model: str, tasks: list[str], overrides: list[str]) -> None:
    """Learn `tasks` (`NAME=SOURCE`) into the folder `model`, telling every step.

    Raises:
        UserError: as `igsp_train.sequence.train_sequence`.
    """
    from pathlib import Path

    from igsp_train.learn import StepReport
    from igsp_train.sequence import train_sequence

    settings = build(RunConfig, apply_overrides({}, overrides), "--set")
    for name, source in parse_tasks(tasks).items():

        def step(report: StepReport, name: str = name) -> None:
            _say({"event": "step", "task": name, "steps": settings.learn.steps, **dataclasses.asdict(report)})

        folder = train_sequence(Path(model), dataclasses.replace(settings, tasks={name: source}), report=step)
        record = next(task for task in folder.tasks if task.name == name)
        told = {key: record.metrics.get(key) for key in SHOWN}
        _say({"event": "learned", "task": name, "parameters": record.kept_parameters, **told})


def _say(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    sys.exit(main())
