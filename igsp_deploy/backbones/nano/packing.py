"""Weights in few bytes: int8 rows for the large matrices, half precision for the rest, one safetensors file.

A matrix `w` of the packed kind is stored as `w.int8` and `w.scale`, one scale a row: w = int8 * scale. Unpacking is
one exact product a value, so every load on every machine gives the same bits. Of the token embedding only the rows
that pretraining has touched are stored (`w.rows` lists them); the others are drawn from a fixed stream of numpy's
Philox generator, so that words never seen still differ from each other.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from igsp_deploy.errors import UserError
from igsp_deploy.files import write_bytes_atomic

FILL_SEED = 20260519


def fill_rows(num_rows: int, width: int, scale: float) -> Tensor:
    """Draw the rows of the token embedding that no pretraining text has touched.

    Returns:
        [num_rows, width] float32, uniform in +-`scale` in 255 steps, the same on every machine.
    """
    words = np.random.Philox(key=FILL_SEED).random_raw(num_rows * width)
    steps = (words >> np.uint64(32)) % np.uint64(255)
    return torch.from_numpy(steps.astype(np.float32).reshape(num_rows, width) - 127.0) * (scale / 127)


def pack(weights: Mapping[str, Tensor], int8: Iterable[str], rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compress a state dict.

    Args:
        weights: name to float tensor.
        int8: names to store as int8 rows (every axis but the first is one row).
        rows: name to the indices [n] of the rows worth storing; the others will be drawn by `fill_rows`.

    Returns:
        What `save_packed` writes and `unpack` reads.
    """
    packed: dict[str, Tensor] = {}
    chosen = set(int8)
    for name, value in weights.items():
        if name not in chosen:
            packed[name] = value.half().contiguous()
            continue
        if name in rows:
            packed[f"{name}.rows"] = rows[name].to(torch.int32)
            packed[f"{name}.num_rows"] = torch.tensor([len(value)], dtype=torch.int32)
            value = value[rows[name].long()]
        flat = value.float().flatten(1)
        scale = (flat.abs().amax(1) / 127).clamp_min(1e-8)
        packed[f"{name}.scale"] = scale
        packed[f"{name}.int8"] = torch.round(flat / scale[:, None]).to(torch.int8).view(value.shape)
    return packed


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `pack`, up to its rounding: name to float32 tensor."""
    weights: dict[str, Tensor] = {}
    for name, value in packed.items():
        stem, _, kind = name.rpartition(".")
        if kind == "int8":
            scale = packed[f"{stem}.scale"].view(-1, *([1] * (value.dim() - 1)))
            full = value.float() * scale
            if f"{stem}.rows" in packed:
                num_rows = int(packed[f"{stem}.num_rows"].item())
                stored = full
                full = fill_rows(num_rows, stored.shape[1], float(packed[f"{stem}.scale"].median()) * 64)
                full[packed[f"{stem}.rows"].long()] = stored
            weights[stem] = full
        elif kind not in ("scale", "rows", "num_rows"):
            weights[name] = value.float()
    return weights


def save_packed(packed: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> int:
    """Write a packed state dict, atomically. Returns its size in bytes."""
    data = save(dict(packed), metadata=dict(metadata))
    write_bytes_atomic(path, data)
    return len(data)


def load_packed(path: Path) -> dict[str, Tensor]:
    """Read a file of `save_packed` and unpack it.

    Raises:
        UserError: the file is missing, unreadable or damaged.
    """
    remedy = (
        "Reinstall igsp-deploy, or make the file again: python -m igsp_train.research.pretrain --images DIR --out FILE"
    )
    try:
        return unpack(load_file(path))
    except FileNotFoundError as error:
        raise UserError(f"the weights of the nano backbone are missing: {path} does not exist. {remedy}") from error
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"the weights of the nano backbone are damaged: {path} ({error}). {remedy}") from error
