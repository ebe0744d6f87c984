"""Every kind of tokenizer that open_clip has gives the same ids from a bundle's file."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from igsp_deploy.bundle.manifest import BundleTokenizer
from igsp_deploy.bundle.tokenizer import open_tokenizer
from igsp_deploy.errors import UserError
from igsp_export.tokenizer import write_tokenizer
from tests.tokenizers_at_hand import CONTEXT, HUGGING_FACE, KINDS, strange_texts


def made(kind: str, folder: Path) -> Any:
    if kind in HUGGING_FACE:
        pytest.importorskip("transformers")
    return KINDS[kind](folder / "theirs")


@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_strange_texts_equal_open_clips(kind: str, tmp_path: Path) -> None:
    theirs = made(kind, tmp_path)
    about = write_tokenizer(theirs, tmp_path / "tokenizer.json")
    ours = open_tokenizer(
        tmp_path / "tokenizer.json", CONTEXT, BundleTokenizer(**json.loads(json.dumps(asdict(about))))
    )
    texts = list(strange_texts(3000))
    expected = theirs(texts).numpy()
    different = [ascii(t) for t, a, b in zip(texts, ours(texts), expected, strict=True) if not np.array_equal(a, b)]
    assert different[:5] == []
    assert ours([]).shape == (0, CONTEXT)
    assert len({row.tobytes() for row in expected}) > 1000
    assert expected[0, -1] == (0 if about.zeroed_id is not None else about.pad_id), "the empty text is padded"


@pytest.mark.parametrize("kind", KINDS)
def test_texts_that_lose_a_part_are_found(kind: str, tmp_path: Path) -> None:
    about = write_tokenizer(made(kind, tmp_path), tmp_path / "tokenizer.json")
    ours = open_tokenizer(tmp_path / "tokenizer.json", CONTEXT, about)
    assert ours.cut(["a cat", "a photo of a cat and the dog " * 9, ""]) == ["a photo of a cat and the dog " * 9]


def test_a_file_of_another_length_is_refused(tmp_path: Path) -> None:
    about = write_tokenizer(made("SigLIP", tmp_path), tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="does not cut and pad texts to 17 tokens"):
        open_tokenizer(tmp_path / "tokenizer.json", CONTEXT + 1, about)


def test_reading_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    about = write_tokenizer(made("WordPiece, stripped", tmp_path), tmp_path / "tokenizer.json")
    code = (
        "import sys; from pathlib import Path; from igsp_deploy.bundle.manifest import BundleTokenizer\n"
        "from igsp_deploy.bundle.tokenizer import open_tokenizer\n"
        f"print(open_tokenizer(Path({str(tmp_path / 'tokenizer.json')!r}), {CONTEXT}, {about!r})(['a cat']).tolist())\n"
        "assert not {'torch', 'transformers', 'open_clip'} & set(sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == made("WordPiece, stripped", tmp_path)(["a cat"]).tolist()
