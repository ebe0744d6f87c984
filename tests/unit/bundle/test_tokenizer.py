"""Our tokenizer gives open_clip's ids, whatever the text."""

import random
from pathlib import Path

import numpy as np
import open_clip
import pytest

from igsp_deploy.bundle.manifest import BundleTokenizer
from igsp_deploy.bundle.tokenizer import ClipTokenizer, open_tokenizer
from igsp_deploy.errors import UserError

CONTEXT = 16

WORDS = (
    "<end_of_text> <start_of_text> &amp; &lt; &#x27; &amp;lt;end_of_text&gt; ’s 's 'LL 'ſ é 日本 🎉 👩\u200d🔬 Ã© â€™ "
    "ß İ ǅ ﬁ 1234 ٣ ½ _ - -- ... !< cat photo A </w> œ̃ नमस्ते K Å ㎏ &nbsp; &notanentity; <b> \\ \" ' "
    "\u0345 \u200d \ufeff \x00 \ud83d"
)
FRAGMENTS = [*WORDS.split(" "), " ", "  ", "\n", "\t", "\x85", "\u3000", "\x1c"]


def random_text(random: random.Random) -> str:
    def piece() -> str:
        if random.random() < 0.7:
            return random.choice(FRAGMENTS)
        return chr(
            random.choice([random.randrange(32, 127), random.randrange(0x3000), random.randrange(0x1F000, 0x1FB00)])
        )

    return "".join(piece() for _ in range(random.choice([0, 1, 2, 3, 5, 8, 20])))


@pytest.fixture(scope="module")
def ours(tokenizer_file: Path) -> ClipTokenizer:
    tokenizer = open_tokenizer(tokenizer_file, CONTEXT, BundleTokenizer())
    assert isinstance(tokenizer, ClipTokenizer)
    return tokenizer


def theirs(texts: list[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return open_clip.SimpleTokenizer(context_length=CONTEXT)(texts).numpy()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "a photo of a cat.",
        "It's the DOG'S; they'll say 'Tis!",
        "&lt;b&gt; &amp;amp; caf&eacute;",
        "sch\u00c3\u00b6n \u00e2\u20ac\u0153mojibake\u00e2\u20ac\u009d",
        "<end_of_text>",
        "a <start_of_text> in !<end_of_text> text",
        "👩‍🔬🏳️‍🌈 emoji",
        "word " * 500,
        "x" * 5000,
        "\ud800 lone surrogate",
    ],
)
def test_ids_equal_open_clip(ours: ClipTokenizer, text: str) -> None:
    np.testing.assert_array_equal(ours([text]), theirs([text]))


def test_ids_equal_open_clip_on_random_texts(ours: ClipTokenizer) -> None:
    source = random.Random(0)
    texts = [random_text(source) for _ in range(4000)]
    np.testing.assert_array_equal(ours(texts), theirs(texts))


def test_every_kind_of_character_is_split_as_open_clip_splits_it(ours: ClipTokenizer) -> None:
    reference = open_clip.SimpleTokenizer()
    codes = [*range(0x0, 0x3100), *range(0xA000, 0xE000, 7), *range(0xF900, 0x20000, 7)]
    texts = [f"a{chr(code)}b1'{chr(code)} !{chr(code)}" for code in codes]
    assert [text for text in texts if ours.encode(text) != reference.encode(text)] == []


def test_no_texts_give_no_rows(ours: ClipTokenizer) -> None:
    assert ours([]).shape == (0, CONTEXT)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"{}"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        open_tokenizer(path, CONTEXT, BundleTokenizer())


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    path = tmp_path / "tokenizer.json"
    Tokenizer(BPE(vocab={"a": 0}, merges=[])).save(str(path))
    with pytest.raises(UserError, match="not CLIP's tokenizer"):
        open_tokenizer(path, CONTEXT, BundleTokenizer())
