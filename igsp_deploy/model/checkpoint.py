"""A local file of CLIP weights: what it holds, and whether it is what a model needs.

Files run no code: safetensors, PyTorch's files with `weights_only`, and TorchScript archives, of which only the numbers
are taken.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from open_clip.convert import convert_state_dict
from open_clip.factory import convert_to_custom_text_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from igsp_deploy.errors import UserError

_SHOWN = 3
"""Names of weights in an error."""
_ARCHIVE = ("input_resolution", "context_length", "vocab_size")
"""What OpenAI's archives hold beside their weights."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a file by name: safetensors, a state dict, a checkpoint with one inside, or OpenAI's archive.

    Raises:
        UserError: missing, truncated, no weights, or a file that wants to run code.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file. Give the checkpoint itself.")
    try:
        found: Any = _read(path)
    except (SafetensorError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # torch's reader raises what its many formats raise
        if "weights_only" in str(error) or "Unsupported" in str(error) or "GLOBAL" in str(error):
            raise UserError(
                f"{path} holds more than weights and would run code of its own when opened, so it is not. Save the "
                "state dict alone: torch.save(model.state_dict(), PATH), or safetensors."
            ) from error
        raise _unreadable(path, error) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError(f"{path} holds no state dict (names with weights). Save torch.save(model.state_dict(), PATH).")
    weights = dict(found)
    while all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    return weights


def put_weights(clip: nn.Module, weights: dict[str, Tensor], name: str, path: Path) -> None:
    """Give the weights to a model of open_clip, all of them and nothing else.

    Args:
        clip: the model, changed in place.
        weights: of a file.
        name: of the model, for errors.
        path: of the file, for errors.

    Raises:
        UserError: they are in another library's form, of another architecture, or not finite.
    """
    if any(key.startswith(("vision_model.", "text_model.", "text_projection.weight")) for key in weights):
        raise UserError(
            f"{path} is in the form of the package transformers, not of open_clip. Take the model's open_clip files, "
            "or convert it first."
        )
    weights = _in_open_clips_form(clip, weights)
    wanted = clip.state_dict()
    missing, spare = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    other = [key for key in wanted.keys() & weights.keys() if wanted[key].shape != weights[key].shape]
    if missing or spare or other:
        told = [_some(what, keys) for what, keys in (("lacks", missing), ("has besides", spare)) if keys]
        told += [
            f"{key} is {tuple(weights[key].shape)}, not {tuple(wanted[key].shape)}" for key in sorted(other)[:_SHOWN]
        ]
        raise UserError(
            f"{path} holds the weights of another architecture than {name}: it {'; '.join(told)}. Name the model it is "
            "of with model.backbone."
        )
    broken = sorted(k for k, value in weights.items() if value.is_floating_point() and not value.isfinite().all())
    if broken:
        raise UserError(f"{path} is damaged: {_some('has numbers that are not finite in', broken)}. Copy it again.")
    clip.load_state_dict(weights)


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(9)
    # A safetensors file begins with the size of its header, which is JSON; what its name ends in says little.
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return load_file(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            scripted = any(name.split("/")[1:2] == ["code"] for name in archive.namelist())
        if scripted:
            weights = torch.jit.load(path, map_location="cpu").state_dict()
            return {key: value for key, value in weights.items() if key not in _ARCHIVE}
    elif head[:1] != b"\x80":  # no pickle either
        raise EOFError("it is neither safetensors nor a PyTorch file")
    return torch.load(path, map_location="cpu", weights_only=True)


def _in_open_clips_form(clip: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """As open_clip's own loader does it, but for position embeddings of another size, which it stretches in silence."""
    weights = convert_state_dict(clip, dict(weights))
    if "positional_embedding" in weights and not hasattr(clip, "positional_embedding"):
        weights = convert_to_custom_text_state_dict(weights)
    wanted = clip.state_dict()
    for key in ("logit_scale", "logit_bias"):
        if key in weights and key in wanted and weights[key].numel() == wanted[key].numel():
            weights[key] = weights[key].reshape(wanted[key].shape)
    if "logit_bias" in wanted and "logit_bias" not in weights:
        weights["logit_bias"] = torch.zeros_like(wanted["logit_bias"])
    position = "text.transformer.embeddings.position_ids"
    if position not in wanted:
        weights.pop(position, None)
    return weights


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} cannot be read as weights ({_line(error)}). It may be cut off; copy it again.")


def _some(what: str, keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"{what} {', '.join(keys[:_SHOWN])}{more}"


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."
