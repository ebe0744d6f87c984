"""Arithmetic of a learning step: single precision, or bfloat16 products on single-precision parameters."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from igsp_deploy.config import Precision
from igsp_deploy.errors import UserError


@contextmanager
def autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    """Context in which matrix products run in `precision`; sums, norms and softmax stay in single precision.

    Raises:
        UserError: the device has no bfloat16.
    """
    if precision == "fp32":
        yield
        return
    with torch.autocast(device.type, dtype=torch.bfloat16):
        if not torch.is_autocast_enabled(device.type):  # PyTorch only warns
            raise UserError(f"learn.precision is bf16, and PyTorch has no bfloat16 for this {device.type}. Take fp32.")
        yield
