"""What the frozen trunk makes of one data set, computed once and kept on disk: all methods and seeds read the same.

Shapes: V views, N images, n tokens, d width.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from igsp_deploy.config import DataConfig
from igsp_deploy.data import TaskData, load_task_data, read_eval_images
from igsp_deploy.errors import UserError
from igsp_deploy.files import write_bytes_atomic
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.clip import Clip
from igsp_train.data.views import TrainViews
from igsp_train.features import TrunkViews, trunk_chunks

CHUNK = 256
"""Images a forward pass when something is measured."""
CONTENTS = "contents"
"""Where a file of tokens says what `_contents` gave of its images."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrunkTokens:
    """One task as the adapted blocks see it.

    Attributes:
        name: its name.
        classes: display names, in label order.
        templates: prompt templates; the first is used in training.
        views: trunk tokens of V augmented views of every training image, `[V, N, n, d]`.
        splits: `train` (without augmentation), `val` and `test`: trunk tokens `[N, n, d]` and labels `[N]`.
        key: identifies images, backbone and settings.
    """

    name: str
    classes: list[str]
    templates: list[str]
    views: Tensor
    splits: dict[str, tuple[Tensor, Tensor]]
    key: str

    @property
    def labels(self) -> NDArray[np.int64]:
        """Classes of the training images, `[N]`."""
        labels: NDArray[np.int64] = self.splits["train"][1].numpy()
        return labels

    @property
    def prompts(self) -> list[str]:
        """One training prompt a class."""
        return [self.templates[0].format(name) for name in self.classes]

    def batch(self, indices: NDArray[np.int64], epochs: NDArray[np.int64]) -> Tensor:
        """Tokens `[B, n, d]` of training images; epoch e sees view e mod V, as in `features.TrunkViews`."""
        return self.views[torch.from_numpy(epochs % len(self.views)), torch.from_numpy(indices)]

    def chunks(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Tokens and labels of a split, `CHUNK` images at a time."""
        tokens, labels = self.splits[split]
        for start in range(0, len(labels), CHUNK):
            yield tokens[start : start + CHUNK], labels[start : start + CHUNK]


def load_tokens(
    cache: Path, name: str, source: str, backbone: Backbone, first_block: int, data: DataConfig, num_views: int
) -> TrunkTokens:
    """Trunk tokens of a task, from the cache where they are there.

    The views' seed is that of the data, not that of learning: seeds of a study vary initialisation and the order of the
    images, and all of them see the same `num_views` views.

    Args:
        cache: folder for the files.
        name: name of the task.
        source: folder or manifest.
        backbone: the frozen CLIP.
        first_block: first adapted vision block.
        data: settings of splits and augmentation.
        num_views: augmented views V of an image.

    Raises:
        UserError: unreadable images, images that are others than those in the cache, or a full disk.
    """
    found = load_task_data(
        name, source, val_share=data.val_share, test_share=data.test_share, seed=data.seed, shots=data.shots
    )
    key, contents = _key(found, backbone, first_block, data, num_views), _contents(found)
    tensors = _read(_file(cache, name, key), contents)
    if tensors is None:
        # Tokens further up are made from those at the bottom, so that images are read once for all placements.
        bottom_key = _key(found, backbone, 0, data, num_views)
        bottom = _read(_file(cache, name, bottom_key), contents)
        if bottom is None:
            bottom = _compute(found, backbone, data, num_views)
            write_bytes_atomic(_file(cache, name, bottom_key), save(bottom, {CONTENTS: contents}))
        tensors = {what: _run_up(backbone, values, what, first_block) for what, values in bottom.items()}
        if first_block:
            write_bytes_atomic(_file(cache, name, key), save(tensors, {CONTENTS: contents}))
    splits = {split: (tensors[f"{split}.tokens"], tensors[f"{split}.labels"]) for split in ("train", "val", "test")}
    return TrunkTokens(
        name=name,
        classes=found.display_names,
        templates=found.templates,
        views=tensors["views"],
        splits=splits,
        key=key,
    )


def _file(cache: Path, name: str, key: str) -> Path:
    return cache / f"{name}-{key[:16]}.safetensors"


def _run_up(backbone: Backbone, values: Tensor, what: str, first_block: int) -> Tensor:
    """Tokens at the input of `first_block` from those at the input of block 0; labels as they are."""
    if what.endswith("labels") or not first_block:
        return values
    clip = Clip(backbone, [("vision", first_block)])
    with torch.no_grad():
        parts = [clip.vision.climb(tokens, 0, first_block) for tokens in values.flatten(0, -3).split(CHUNK)]
    return torch.cat(parts).reshape(values.shape)


def _read(path: Path, contents: str) -> dict[str, Tensor] | None:
    if not path.exists():
        return None
    try:
        tensors: dict[str, Tensor] = load_file(path)
        with safe_open(path, "pt") as file:
            made_of = (file.metadata() or {}).get(CONTENTS, contents)  # files of older versions do not say it
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}). Delete it; it will be made again.") from error
    if made_of != contents:
        raise UserError(
            f"{path} was made of other images of the same names and sizes: they were changed since, and the runs "
            "beside it are of those before. Choose another folder for the study, or bring the images back."
        )
    return tensors


def _compute(found: TaskData, backbone: Backbone, data: DataConfig, num_views: int) -> dict[str, Tensor]:
    """Everything at the input of block 0."""
    views = TrainViews(
        found.train,
        backbone.preprocess,
        scale=(data.crop_scale, 1.0),
        horizontal_flip=data.horizontal_flip,
        augment=data.augment,
        seed=data.seed,
    )
    clip = Clip(backbone, [("vision", 0)])
    trunk = TrunkViews(clip, views, cached_views=num_views, limit_bytes=1 << 40)
    everything = np.arange(len(views.items), dtype=np.int64)
    tensors = {"views": torch.stack([trunk.batch(everything, np.full_like(everything, v)) for v in range(num_views)])}
    for split, items in (("train", views.items), ("val", found.val), ("test", found.test)):
        images, labels, _ = read_eval_images(items, backbone.preprocess)
        parts = [tokens for _, tokens in trunk_chunks(clip, images)]
        tensors[f"{split}.tokens"] = (
            torch.cat(parts) if parts else tensors["views"].new_zeros(0, *tensors["views"].shape[2:])
        )
        tensors[f"{split}.labels"] = torch.from_numpy(labels)
    return tensors


def _contents(found: TaskData) -> str:
    """SHA-256 of the contents of the images, which their names and sizes in `_key` do not tell."""
    assert found.split is not None, "the images were looked at"
    parts = [[content.hex() for _, content in found.split.parts[part]] for part in ("train", "val", "test")]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _key(found: TaskData, backbone: Backbone, first_block: int, data: DataConfig, num_views: int) -> str:
    files = []
    for items in (found.train, found.val, found.test):
        for image, label in zip(items.images, items.labels.tolist(), strict=True):
            files.append([image.name, image.stat().st_size if isinstance(image, Path) else 0, label])
    # What says how fast images are read (workers, memory) changes none of them, and the files are those of the split.
    views: list[Any] = [data.crop_scale, data.horizontal_flip, data.seed, num_views]
    views += [data.augment] if data.augment != "crops" else []  # files of older versions stay
    content = [backbone.weight_hash, first_block, views, files]
    words = [found.display_names, found.templates]
    return hashlib.sha256(json.dumps([content, words]).encode()).hexdigest()
