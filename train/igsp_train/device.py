"""Where learning and measuring compute: a word of the command line becomes a device of PyTorch.

MPS, the GPU of Macs, has no float64: `.cpu()` comes before `.double()` everywhere (tests/unit/train/test_device.py).
"""

import re
from typing import TYPE_CHECKING

from igsp_deploy.errors import UsageError, UserError

if TYPE_CHECKING:
    import torch


def find_device(word: str = "auto") -> "torch.device":
    """The device that `word` names.

    Args:
        word: `auto` (the GPU that PyTorch sees through CUDA, else the CPU), `cpu`, `cuda`, `cuda:N` or `mps`. `auto`
            leaves MPS alone: no Mac has run it yet, and a task that was begun on the CPU goes on there.

    Raises:
        UsageError: another word.
        UserError: there is no such device here; says what there is.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", word):
        raise UsageError(f"the device must be auto, cpu, cuda, cuda:N or mps, got {word!r}.")

    import torch

    if word == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = word.partition(":")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError(
            "mps: needs a Mac with Apple silicon and a PyTorch made for it. Take --device cpu, or leave it out."
        )
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            built = torch.version.cuda
            why = f"it is made for CUDA {built}: does nvidia-smi show one?" if built else "it is made without CUDA."
            raise UserError(f"{word}: PyTorch sees no GPU here; {why} Take --device cpu, or leave it out.")
        if int(number or 0) >= count:
            names = ", ".join(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(count))
            raise UserError(f"{word}: this machine has {count} GPU{'s' if count > 1 else ''}: {names}.")
    return torch.device(word)


def check_shared_device(word: str, count: int) -> None:
    """Refuse one device for `count` processes: accelerate gives each of them one of its own.

    Raises:
        UsageError: another word than `auto` and `cpu`.
    """
    if word not in ("auto", "cpu"):
        raise UsageError(
            f"--device {word} is one device, and {count} processes take a GPU each. Leave it out, or give --device cpu."
        )
