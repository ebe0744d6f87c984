"""On 100,000 strange texts and more, the tokenizer of a bundle gives the ids of open_clip's."""

import html
import random
import sys
from collections.abc import Callable

import numpy as np
import open_clip
import pytest

from igsp_deploy.bundle.manifest import BundleTokenizer
from igsp_deploy.bundle.tokenizer import ClipTokenizer, open_tokenizer
from igsp_export.tokenizer import write_tokenizer

CONTEXT = 77
PARTS = 12
TEXTS_PER_PART = 9_000
TOTAL = 100_000
PLANE_SIZE = 0x10000


def listed(text: str) -> list[str]:
    """The words of a line."""
    return text.split(" ")


WORDS = listed(
    "a photo of the cat's dog, they'll we've I'M it'd don't o'clock 'tis rock'n'roll Straße naïve coöperate Ångström "
    "x²+y³ 3.14 1,000,000 ٣٤٥ ½ ⅷ 日本語 中文字 한국어 हिन्दी ไทย עברית العربية русский Ελληνικά e-mail C++ #tag @user http://a.b/c?d=e"
)
CONTRACTIONS = listed("'s 'S 't 'T 're 'RE 've 'Ve 'm 'M 'll 'LL 'd 'D 'ſ ’s `s ''s 'ss 's's s' ' n't 'l 'r")
SPECIAL = listed(
    "<start_of_text> <end_of_text> <START_OF_TEXT> <End_Of_Text> <|endoftext|> </w> <start_of_text <end_of_text>> "
    "<<end_of_text> <ſtart_of_text> !<end_of_text> <end_of_text>! <end_of_text>s start_of_text &lt;end_of_text&gt;"
)
ENTITIES = listed("amp lt gt quot apos nbsp eacute copy hellip zwj zwnj shy notin NotEqualTilde frac12 amp;lt fjlig")
EMOJI = listed("🎉 👩 👨 🔬 🚀 🏳 🌈 ❤ 👍 🧑 🇩 🇪 🇯 🇵 1 # * 🏴 🦰")
JOINERS = listed("\u200d \ufe0f \ufe0e \u20e3 \U0001f3fb \U0001f3ff \U000e0067 \U000e007f")
# Mojibake, which ftfy repairs: text of one encoding read as another.
MOJIBAKE = ["Ã©", "â€™", "â€œ", "Ã\xa0", "ðŸ˜€", "Â£", "Ð¿Ñ€", "æ—¥", "\x93q\x94", "ï¬\x81", "ﬁ", "ﾊﾝｶｸ", "ＦＵＬＬ"]
SPACES = [*"\t\n\v\f\r \x1c\x1d\x1e\x1f\x85\xa0\u1680\u180e\u2028\u2029\u202f\u205f\u2060\u3000\ufeff", "\r\n"]
SPACES += [chr(code) for code in range(0x2000, 0x200D)]
BIDI = [*"\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"]
EDGES = [*'!"#~\x00\x01\x7f\x80\xa1\xac\xad\xae\xff\u0100\u0345\u017f\u212a\u0130\u0131\u1e9e\ud7ff\ue000\ufffd\uffff']
EDGES += ["\U00010000", "\U0010ffff", "\ud800", "\udbff", "\udc00", "\udfff"]

Draw = Callable[[random.Random], str]


def word(source: random.Random) -> str:
    text = source.choice(WORDS)
    return source.choice([text, text.upper(), text.title(), text.swapcase(), text[::-1]])


def contraction(source: random.Random) -> str:
    return source.choice(["", "it", "WE", "7", "é", " "]) + source.choice(CONTRACTIONS)


def entity(source: random.Random) -> str:
    code = source.choice([source.randrange(0x100), source.randrange(0x3000), source.randrange(sys.maxunicode + 1)])
    text = source.choice([f"&#{code};", f"&#x{code:x};", f"&{source.choice(ENTITIES)};", f"&{source.choice(ENTITIES)}"])
    if source.random() < 0.3:
        text = html.escape(text)
    return html.escape(text) if source.random() < 0.2 else text


def emoji(source: random.Random) -> str:
    return "".join(source.choice(EMOJI) + source.choice(["", *JOINERS]) for _ in range(source.randint(1, 4)))


def combining(source: random.Random) -> str:
    return source.choice("aeiouAEIOU한ア\u0915 ") + "".join(
        chr(source.choice([source.randrange(0x300, 0x370), source.randrange(0x483, 0x48A), 0x20DD, 0x3099, 0x93F]))
        for _ in range(source.randint(1, 5))
    )


def right_to_left(source: random.Random) -> str:
    letters = [
        source.choice([0x5D0, 0x620, 0x710, 0x10900]) + source.randrange(27) for _ in range(source.randint(1, 6))
    ]
    return source.choice(["", *BIDI]) + "".join(map(chr, letters)) + source.choice(["", *BIDI])


def any_character(source: random.Random) -> str:
    plane = source.choice([0, 0, 0, 0, 1, 1, 2, 3, *range(4, 17)])
    return chr(plane * PLANE_SIZE + source.randrange(PLANE_SIZE))


def latin(source: random.Random) -> str:
    return chr(source.randrange(0x250))


def digits(source: random.Random) -> str:
    zero = ord(source.choice("0٠०๐０𝟎"))
    return "".join(chr(zero + source.randrange(10)) for _ in range(source.randint(1, 6)))


def space(source: random.Random) -> str:
    return "".join(source.choice(SPACES) for _ in range(source.randint(1, 3)))


def one_of(pieces: list[str]) -> Draw:
    return lambda source: source.choice(pieces)


DRAWS: dict[str, Draw] = {
    "word": word,
    "contraction": contraction,
    "special": one_of(SPECIAL),
    "entity": entity,
    "emoji": emoji,
    "combining": combining,
    "right_to_left": right_to_left,
    "any_character": any_character,
    "latin": latin,
    "digits": digits,
    "space": space,
    "mojibake": one_of(MOJIBAKE),
    "edge": one_of(EDGES),
}


def random_text(source: random.Random) -> str:
    """A text of one kind of piece, or of several, mostly short, one in four hundred very long."""
    if source.random() < 1 / 400:
        return DRAWS[source.choice(list(DRAWS))](source) * source.choice([100, 1000])
    kinds = source.sample(list(DRAWS.values()), source.choice([1, 2, 3, len(DRAWS)]))
    between = source.choice(["", "", " ", "space"])
    pieces = [source.choice(kinds)(source) for _ in range(source.choice([1, 2, 3, 4, 6, 9]))]
    if between != "space":
        return between.join(pieces)
    return "".join(piece + source.choice(SPACES) for piece in pieces)


def texts_of(part: int) -> list[str]:
    """Texts that differ from each other; the first part begins with those that must not be missing."""
    source = random.Random(part)
    texts = dict.fromkeys(
        ["", " ", *SPACES, *EDGES, *SPECIAL, "!", "!!!", "a" * 20_000, "é" * 5_000, "! " * 200] * (part == 0)
    )
    while len(texts) < TEXTS_PER_PART:
        texts[random_text(source)] = None
    return list(texts)


@pytest.fixture(scope="module")
def reference() -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer(context_length=CONTEXT)


@pytest.fixture(scope="module")
def ours(reference: open_clip.SimpleTokenizer, tmp_path_factory: pytest.TempPathFactory) -> ClipTokenizer:
    path = tmp_path_factory.mktemp("fuzz") / "tokenizer.json"
    write_tokenizer(reference, path)
    tokenizer = open_tokenizer(path, CONTEXT, BundleTokenizer())
    assert isinstance(tokenizer, ClipTokenizer)
    return tokenizer


@pytest.mark.parametrize("part", range(PARTS))
def test_every_id_equals_open_clips(ours: ClipTokenizer, reference: open_clip.SimpleTokenizer, part: int) -> None:
    compared, different = 0, []
    for text in texts_of(part):
        compared += 1
        if ours.encode(text) != reference.encode(text):
            different.append(text)
    assert [ascii(text) for text in different[:5]] == [], f"{len(different)} of {compared} texts"
    assert compared == TEXTS_PER_PART


def test_the_parts_are_100_000_different_texts_of_every_kind() -> None:
    texts = {text for part in range(PARTS) for text in texts_of(part)}
    assert len(texts) >= TOTAL
    everything = "".join(texts)
    planes = {ord(character) // PLANE_SIZE for character in set(everything)}
    assert planes == set(range(17))
    missing = [
        piece
        for piece in (*CONTRACTIONS, *SPECIAL, *SPACES, *BIDI, *EDGES, *JOINERS, *MOJIBAKE)
        if piece not in texts and piece not in everything
    ]
    assert missing == []
    assert "" in texts
    assert max(map(len, texts)) >= 20_000


def test_rows_cut_at_the_context_length_equal_open_clips(
    ours: ClipTokenizer, reference: open_clip.SimpleTokenizer
) -> None:
    texts = [text for text in texts_of(0) if len(text) > CONTEXT // 2][:1000]
    expected = reference(texts).numpy()
    assert (expected[:, -1] != 0).sum() > 50
    np.testing.assert_array_equal(ours(texts), expected)
