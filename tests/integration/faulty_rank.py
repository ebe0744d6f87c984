"""`igsp train` as one process of several, the one of rank 1 with a fault at its sixth step.

Args: the fault, `raise` or `drift`, then what `igsp` gets. RANK, WORLD_SIZE and the like are in the environment.
"""

import os
import sys

import torch

from igsp_deploy.cli.main import main
from igsp_deploy.errors import UserError
from igsp_train.learn import TaskRun

AT_STEP = 6

_whole_step = TaskRun._step


def _step(run: TaskRun) -> None:
    _whole_step(run)
    if run.progress.step != AT_STEP:
        return
    if fault == "raise":
        raise UserError("the disk of this machine went away")
    with torch.no_grad():
        next(run.learner.parameters()).add_(1e-6)


if __name__ == "__main__":
    fault = sys.argv.pop(1)
    if os.environ["RANK"] == "1":
        setattr(TaskRun, "_step", _step)  # noqa: B010 (mypy takes no other function for a method)
    main()
