"""A task's head: class vectors beside those made of words, or in their place.

*Beside*: an image's score for class c is `text_share <embedding, text vector c> + <read, head vector c>`, times the
logit scale. What is read are Fourier features of the trunk's summary (`igsp_deploy.model.fourier`), which the selector
reads as well, or that summary itself, so a head costs two small products and no pass. How it is found:
igsp_train/head.py. *In their place*: `<embedding, probe vector c>`, times the logit scale, for a
linear probe that somebody brought (igsp_train/imported.py).

A head beside the words also carries the temperature T of its task's probabilities: with a weight w of the head,
`text_share` is (1 - w) / T, and the vectors are divided by T as well. The best class is the same for every T.

Only a task's own classes under its own experts have it. Words that a caller gives, the classes of another task, and
plain CLIP are compared by text alone, with text vectors of length 1.

Shapes: C classes of one task, P numbers that heads are compared with, D of an embedding.
"""

from dataclasses import dataclass
from math import inf

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a task's classes are told apart by, besides words or without them; in units of a cosine.

    Attributes:
        vectors: on what heads read of the trunk, `[C, P]` float32; None where words are replaced.
        text_share: factor on the cosine with the text vectors, above 0; 0 where words are replaced.
        probe: on the embedding, in place of words, `[C, D]` float32; None where words count.
    """

    vectors: Tensor | None = None
    text_share: float = 0.0
    probe: Tensor | None = None

    def __post_init__(self) -> None:
        """Check that it is one of the two."""
        assert (self.vectors is None) != (self.probe is None), "vectors beside words, or a probe in their place"

    def num_parameters(self) -> int:
        """Numbers that are kept for it."""
        return sum(part.numel() for part in (self.vectors, self.probe) if part is not None) + (self.probe is None)

    def tempered(self, temperature: float) -> "Head":
        """The same classes with scores divided by `temperature`, of a head beside the words."""
        assert self.vectors is not None, "a probe stays as somebody brought it"
        return Head(vectors=self.vectors / temperature, text_share=self.text_share / temperature)

    def to_bytes(self) -> bytes:
        """As safetensors."""
        if self.probe is not None:
            return save({"probe": self.probe.detach().cpu().float().contiguous()})
        assert self.vectors is not None
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
            probe = tensors.get("probe")
            vectors = tensors["vectors"] if probe is None else probe
            share = float(tensors["text_share"][0]) if probe is None else 1.0
        except (SafetensorError, KeyError, IndexError, ValueError) as error:
            raise ValueError(f"it does not hold a head ({error})") from error
        if vectors.ndim != 2 or len(vectors) != num_classes or not vectors.isfinite().all():
            raise ValueError(f"it must hold finite numbers for {num_classes} classes, has {list(vectors.shape)}")
        if not 0 < share < inf:
            raise ValueError(f"the share of its words must be a number above 0, is {share}")
        return cls(vectors=vectors, text_share=share) if probe is None else cls(probe=probe)
