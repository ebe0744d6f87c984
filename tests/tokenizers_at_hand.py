"""open_clip's kinds of tokenizers, with small vocabularies learned on the spot, and strange texts to hold them against.

The ones of Hugging Face's form are of the kinds that open_clip's models name: byte-level BPE (RoBERTa), WordPiece
(BERT, for CLIPA), Unigram (T5 and XLM-R, for SigLIP and MetaCLIP2) and BPE with byte fallback (Gemma, for SigLIP2).
"""

import random
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import open_clip
import tokenizers
from open_clip.tokenizer import HFTokenizer, SigLipTokenizer
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

CONTEXT = 16
CORPUS = [
    "a photo of a cat and the dog's bowl, they'll be running at 12:30 (or so)!",
    "satellite image of a Highway & an annual crop; l'été à Zürich, naïve coöperation",
    "日本語の写真 中文图片 한국어 사진 русское фото ελληνική صورة עברית हिन्दी ไทย",
] * 4


def _save(folder: Path, tokenizer: tokenizers.Tokenizer, **special: str) -> Path:
    import transformers

    made: Any = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    made.save_pretrained(str(folder))
    return folder


def _once(make: Callable[[Path], Path], folder: Path) -> Path:
    """Two trainings need not give the same: where pairs are equally frequent, either may come first."""
    return folder if folder.exists() else make(folder)


def byte_level(folder: Path) -> Path:
    """As RoBERTa's: padding is 1, 0 starts a text, 2 ends it."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return _save(
        folder, tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>", mask_token="<mask>"
    )


def word_pieces(folder: Path) -> Path:
    """As BERT's: padding is 0, [CLS] starts a text, [SEP] ends it; accents and case go."""
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=500, special_tokens=special))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    marks = {
        "unk_token": "[UNK]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    return _save(folder, tokenizer, **marks)


def unigram(folder: Path) -> Path:
    """As T5's for SigLIP: 1 both ends a text and pads it."""
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "</s>", "<pad>"]
    tokenizer.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=400, special_tokens=special, unk_token="<unk>")
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return _save(folder, tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="</s>")


def byte_fallback(folder: Path) -> Path:
    """As Gemma's for SigLIP2: padding is 0, 1 ends a text, characters it does not know become bytes."""
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=700, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return _save(folder, tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>")


def _simple(cleaning: str) -> Callable[[Path], Any]:
    return lambda folder: open_clip.SimpleTokenizer(context_length=CONTEXT, clean=cleaning)


def _hugging_face(make: Callable[[Path], Path], **settings: Any) -> Callable[[Path], Any]:
    return lambda folder: HFTokenizer(str(_once(make, folder)), context_length=CONTEXT, **settings)


def _siglip(folder: Path) -> Any:
    """What `SigLipTokenizer` is, but for its files, which are on the network."""
    made: Any = SigLipTokenizer.__new__(SigLipTokenizer)
    made.tokenizer = HFTokenizer(str(_once(unigram, folder))).tokenizer
    made.tokenizer.pad_token_id = made.tokenizer.eos_token_id = 1
    made.context_length = CONTEXT
    return made


SIMPLE: dict[str, Callable[[Path], Any]] = {
    f"clip, {how}": _simple(how) for how in ("lower", "whitespace", "canonicalize")
}
HUGGING_FACE: dict[str, Callable[[Path], Any]] = {
    "byte-level BPE, whitespace": _hugging_face(byte_level),
    "byte-level BPE, lower": _hugging_face(byte_level, clean="lower"),
    "WordPiece, stripped": _hugging_face(word_pieces, strip_sep_token=True),
    "Unigram, canonicalize": _hugging_face(unigram, clean="canonicalize"),
    "byte fallback, canonicalize": _hugging_face(byte_fallback, clean="canonicalize"),
    "SigLIP": _siglip,
}
KINDS = SIMPLE | HUGGING_FACE
"""Name -> what makes one, given an empty folder."""

_BLOCKS: tuple[int, ...] = (
    0x20,
    0xA0,
    0x100,
    0x300,
    0x370,
    0x400,
    0x530,
    0x590,
    0x600,
    0x900,
    0xE00,
    0x1100,
    0x1E00,
    0x2000,
    0x2070,
    0x2190,
)
_BLOCKS += (
    0x2600,
    0x3040,
    0x4E00,
    0xAC00,
    0xFB00,
    0xFE00,
    0xFF00,
    0x10300,
    0x1D400,
    0x1F300,
    0x1F600,
    0x1F900,
    0x20000,
    0xE0000,
)
_MARKS: tuple[str, ...] = (
    "<start_of_text>",
    "<end_of_text>",
    "<END_OF_TEXT>",
    "</s>",
    "<s>",
    "<pad>",
    "[SEP]",
    "[CLS]",
    "[PAD]",
    "[UNK]",
)
_MARKS += ("<eos>", "<bos>", "<0x41>", "▁", "##", "&amp;lt;", "&#x27;")
_JOINED = (
    "👩\u200d🔬",
    "🏳️\u200d🌈",
    "🇩🇪",
    "👍🏽",
    "e\u0301\u0323",
    "ａｂｃ",
    "ﬁ",
    "ß",
    "İ",
    "ſ",
    "Ã©",
    "â€™",
    "it's",
    "WE'LL",
    "_",
    "_-_",
)
_ODD = (
    *"\t\n\r\x00\x07\x1b\x7f\x85\xa0\xad\u200b\u200d\u2028\u202e\u2060\u3000\ufeff\ufffd\uffff",
    "\U0010ffff",
    "\ud800",
)


def _piece(source: random.Random) -> str:
    draw = source.randrange(8)
    if draw == 0:
        return source.choice(_MARKS)
    if draw == 1:
        return source.choice(_JOINED)
    if draw == 2:
        return source.choice(_ODD)
    if draw == 3:
        return chr(source.randrange(0x20, sys.maxunicode + 1))
    if draw in (4, 5):
        word = source.choice(source.choice(CORPUS).split())
        return source.choice([word, word.upper(), word.title(), unicodedata.normalize("NFD", word)])
    start = source.choice(_BLOCKS)
    return "".join(chr(start + source.randrange(0x60)) for _ in range(source.randint(1, 6)))


def strange_texts(count: int, seed: int = 0) -> Iterator[str]:
    """Texts in many scripts, from empty to very long, some far beyond the context; the same for a seed."""
    source = random.Random(seed)
    yield from ["", " ", "\x00", "a" * 5000, "a cat " * 500, *_MARKS, *_JOINED, *_ODD][:count]
    for number in range(count - 5 - len(_MARKS) - len(_JOINED) - len(_ODD)):
        pieces = [_piece(source) for _ in range(400 if number % 997 == 0 else source.choice([0, 1, 1, 2, 3, 5, 8, 20]))]
        yield source.choice(["", " "]).join(pieces)
