"""AdamW over the learner's parameters: two learning rates, warm-up and cosine, state kept over pruning and resume."""

import math

import torch
from torch import Tensor, nn

from igsp_deploy.config import LearnConfig
from igsp_train.learner import TaskLearner

TEXT_GATE_RATE = 0.3
"""Peak learning rate of the static text gates: bare vectors that hardly move at the experts' rate."""

WEIGHT_DECAY = 0.0

MAX_GRAD_NORM = 1.0
"""A longer gradient is cut to this length."""

_STATE = ("exp_avg", "exp_avg_sq", "step")


def learning_rate_factor(step: int, steps: int, warmup_steps: int) -> float:
    """Factor in [0, 1]: linear warm-up, then half a cosine down to zero at `steps`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(steps - warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def make_optimiser(learner: TaskLearner, config: LearnConfig, *, train_router: bool = True) -> torch.optim.AdamW:
    """AdamW with one group for experts and vision routers, one for the static gates of the text tower."""
    main: list[nn.Parameter] = []
    static: list[nn.Parameter] = []
    for _, site in learner.items():
        main += [site.down, site.up]
        if not train_router:
            continue
        if site.weight is None:
            static.append(site.bias)
        else:
            main += [site.weight, site.bias]
    groups = [
        {"params": main, "base": config.learning_rate},
        {"params": static, "base": TEXT_GATE_RATE},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]],
        lr=config.learning_rate,
        weight_decay=WEIGHT_DECAY,
        betas=(0.9, 0.999),
    )


def set_learning_rate(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to its base rate times `factor`."""
    for group in optimiser.param_groups:
        group["lr"] = group["base"] * factor


def carry_state(
    old: torch.optim.Optimizer, new: torch.optim.Optimizer, moved: dict[nn.Parameter, tuple[nn.Parameter, Tensor]]
) -> None:
    """Copy the moments of the rows that pruning kept from `old` to `new`."""
    wanted = {id(p) for group in new.param_groups for p in group["params"]}
    for before, (after, rows) in moved.items():
        if before in old.state and id(after) in wanted:
            state = old.state[before]
            new.state[after] = {
                "exp_avg": state["exp_avg"][rows].clone(),
                "exp_avg_sq": state["exp_avg_sq"][rows].clone(),
                "step": state["step"].clone(),
            }


def optimiser_tensors(optimiser: torch.optim.Optimizer, names: dict[int, str]) -> dict[str, Tensor]:
    """The optimiser's state as named tensors; `names` maps `id(parameter)` to its name."""
    tensors = {}
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            for key in _STATE:
                if parameter in optimiser.state:
                    tensors[f"{names[id(parameter)]}.{key}"] = optimiser.state[parameter][key]
    return tensors


def load_optimiser_tensors(optimiser: torch.optim.Optimizer, names: dict[int, str], tensors: dict[str, Tensor]) -> None:
    """Put back what `optimiser_tensors` gave: moments beside their parameters, the count of steps on the CPU."""
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            if f"{name}.exp_avg" in tensors:
                places = {key: "cpu" if key == "step" else parameter.device for key in _STATE}
                optimiser.state[parameter] = {k: tensors[f"{name}.{k}"].clone().to(at) for k, at in places.items()}
