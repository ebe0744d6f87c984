"""Tensors of a task's folder, from and to safetensors."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from igsp_deploy.errors import UserError
from igsp_deploy.model.head import Head
from igsp_deploy.sites import Site, site_name

REMEDY = "Restore the folder from a copy, or delete this task's folder and every later one and learn them again."


def expert_tensors(experts: dict[Site, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Names and values of new experts, where there are some."""
    tensors = {}
    for site, (down, up) in experts.items():
        if len(down):
            tensors[f"{site_name(site)}.down"] = down
            tensors[f"{site_name(site)}.up"] = up
    return tensors


def router_tensors(weights: dict[Site, Tensor], biases: dict[Site, Tensor]) -> dict[str, Tensor]:
    """Names and values of a task's routers."""
    tensors = {f"{site_name(site)}.bias": bias for site, bias in biases.items()}
    tensors.update({f"{site_name(site)}.weight": weight for site, weight in weights.items()})
    return tensors


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a file."""
    # Not save_file: it makes files that only their owner may read.
    path.write_bytes(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read what `save_tensors` wrote.

    Raises:
        UserError: it is damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}). {REMEDY}") from error


def load_head(path: Path, num_classes: int) -> Head | None:
    """The head of a task; None where it has no such file.

    Raises:
        UserError: it is damaged.
    """
    try:
        return Head.from_bytes(path.read_bytes(), num_classes) if path.is_file() else None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is damaged: {error}. {REMEDY}") from error
