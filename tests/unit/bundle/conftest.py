"""What several tests of the bundle need."""

from pathlib import Path

import open_clip
import pytest

from igsp_export.tokenizer import write_tokenizer


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    write_tokenizer(open_clip.SimpleTokenizer(), path)
    return path
