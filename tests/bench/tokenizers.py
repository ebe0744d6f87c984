"""A bundle's tokenizers beside open_clip's own, on many strange texts in many scripts.

    python -m tests.bench.tokenizers [--texts 100000] [--seed 0]

Every kind of open_clip's, with small vocabularies learned on the spot (`tests/tokenizers_at_hand.py`); needs the extra
`transformers`. Ends with 1 if one text differs.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from igsp_deploy.bundle.tokenizer import open_tokenizer
from igsp_export.tokenizer import write_tokenizer
from tests.tokenizers_at_hand import CONTEXT, KINDS, strange_texts

TOGETHER = 1000
"""Texts compared at once."""


def differing(kind: str, folder: Path, count: int, seed: int) -> int:
    """Texts whose ids differ."""
    source, found = KINDS[kind](folder / "theirs"), 0
    about = write_tokenizer(source, folder / "tokenizer.json")
    ours = open_tokenizer(folder / "tokenizer.json", CONTEXT, about)
    texts = list(strange_texts(count, seed))
    for start in range(0, count, TOGETHER):
        part = texts[start : start + TOGETHER]
        found += int((ours(part) != source(part).numpy()).any(1).sum())
    return found


def main() -> None:
    """Print a line a kind."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tokenizers", description=__doc__.split("\n")[0])
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    total = 0
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            found = differing(kind, Path(folder), given.texts, given.seed)
        print(f"{kind}: {found} of {given.texts:,} texts differ", flush=True)
        total += found
    sys.exit(int(total > 0))


if __name__ == "__main__":
    main()
