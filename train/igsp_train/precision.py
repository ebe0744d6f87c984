"""Arithmetic of a learning step: single precision, or bfloat16 products on single-precision parameters."""

from contextlib import AbstractContextManager, nullcontext

import torch

from igsp_deploy.config import Precision


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Context in which matrix products run in `precision`; sums, norms and softmax stay in single precision."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
