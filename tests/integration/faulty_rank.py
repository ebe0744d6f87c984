"""`igsp train` as one process of several, the one of rank 1 with a fault at its sixth step.

Args: what `igsp` gets. FAULT is `raise` or `drift`; RANK, WORLD_SIZE and the like are in the environment, or
`--num-processes` starts several.
"""

import os

import torch

from igsp_deploy.cli.main import main
from igsp_deploy.errors import UserError
from igsp_train.learn import TaskRun

AT_STEP = 6

_whole_step = TaskRun._step


def _step(run: TaskRun) -> None:
    _whole_step(run)
    if os.environ["RANK"] != "1" or run.progress.step != AT_STEP:
        return
    if os.environ["FAULT"] == "raise":
        raise UserError("the disk of this machine went away")
    with torch.no_grad():
        next(run.learner.parameters()).add_(1e-6)


setattr(TaskRun, "_step", _step)  # noqa: B010 (mypy takes no other function for a method)

if __name__ == "__main__":
    main()
