"""A task's head: a second set of class vectors, on what the frozen trunk gives, beside those made of words.

An image's score for class c is `text_share <embedding, text vector c> + <summary, head vector c>`, times the logit
scale. The summary is what the selector reads as well (`Clip.summary`), so a head costs one small product and no pass.
How it is found: igsp_train/head.py.

Only a task's own classes under its own experts have it. Words that a caller gives, the classes of another task, and
plain CLIP are compared by text alone, with text vectors of length 1.

Shapes: C classes of one task, F numbers of a summary.
"""

from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Head:
    """The closed-form part of a task's classifier.

    Attributes:
        vectors: on the trunk's summary, `[C, F]` float32, in units of a cosine.
        text_share: factor on the cosine with the text vectors, in (0, 1).
    """

    vectors: Tensor
    text_share: float

    def num_parameters(self) -> int:
        """Numbers that are kept for it."""
        return self.vectors.numel() + 1

    def to_bytes(self) -> bytes:
        """As safetensors."""
        vectors = self.vectors.detach().cpu().float().contiguous()
        return save({"vectors": vectors, "text_share": torch.tensor([self.text_share])})

    @classmethod
    def from_bytes(cls, content: bytes, num_classes: int) -> "Head":
        """Read what `to_bytes` wrote.

        Raises:
            ValueError: it is damaged, or of another number of classes; says how.
        """
        try:
            tensors = load(content)
            vectors, share = tensors["vectors"], float(tensors["text_share"][0])
        except (SafetensorError, KeyError, IndexError, ValueError) as error:
            raise ValueError(f"it does not hold a head ({error})") from error
        if vectors.ndim != 2 or len(vectors) != num_classes or not vectors.isfinite().all() or not 0 < share <= 1:
            raise ValueError(f"it must hold finite numbers for {num_classes} classes, has {list(vectors.shape)}")
        return cls(vectors=vectors, text_share=share)
