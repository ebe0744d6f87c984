"""From trained towers to the file that ships: put the trunk back, choose what is stored in which precision, write."""

from pathlib import Path

import torch
from open_clip.model import CLIP
from torch import Tensor

from igsp_deploy.backbones.nano.packing import pack, save_packed
from igsp_deploy.backbones.nano.trunk import Lite0
from igsp_deploy.errors import UserError

SIZE_LIMIT_BYTES = 16_000_000
INT8_TRUNK_STAGES = ("visual.conv1.trunk.stages.5.", "visual.conv1.trunk.stages.6.", "visual.conv1.trunk.head.")


def full_state(model: CLIP, trunk: Lite0) -> dict[str, Tensor]:
    """State dict of the shipped network: the towers' own, with the trunk under `visual.conv1`."""
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("visual.conv1.")}
    state["visual.conv1.embed.weight"] = model.visual.conv1.weight.detach()
    state |= {f"visual.conv1.trunk.{name}": value for name, value in trunk.state_dict().items()}
    return state


def is_int8(name: str, value: Tensor) -> bool:
    """Large matrices are stored as int8 rows; depthwise filters, vectors and the early trunk as half precision."""
    if name.startswith("visual.conv1.trunk."):
        return name.startswith(INT8_TRUNK_STAGES) and value.dim() == 4 and value.shape[1] > 1
    return value.dim() >= 2 and value.numel() >= 1 << 15 and "positional" not in name


def write_nano(model: CLIP, trunk: Lite0, token_rows: Tensor, path: Path) -> int:
    """Write the weights file.

    Args:
        model: trained towers; `visual.conv1` is the linear map from cells to tokens.
        trunk: the frozen trunk.
        token_rows: ids of the tokens that training has touched; other rows of the token embedding are not stored.
        path: file to write.

    Returns:
        Its size, bytes.

    Raises:
        UserError: it came out larger than `SIZE_LIMIT_BYTES`, or cannot be written.
    """
    state = full_state(model, trunk)
    names = [name for name, value in state.items() if is_int8(name, value)]
    packed = pack(state, names, {"token_embedding.weight": torch.sort(token_rows).values})
    size = sum(value.numel() * value.element_size() for value in packed.values())
    if size > SIZE_LIMIT_BYTES:
        raise UserError(
            f"the weights take {size} bytes, more than {SIZE_LIMIT_BYTES}: touch fewer words or store more as int8."
        )
    return save_packed(packed, path, {"format": "nano-1", "origin": "see NOTICE"})
