"""A bundle of a backbone whose texts are not read as CLIP reads them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.tokenizer import HFTokenizer

from igsp_deploy.bundle.manifest import BundleTokenizer, read_manifest
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.learned import LearnedClip
from igsp_deploy.runtime.classifier import Classifier
from igsp_deploy.runtime.verify import require, verify_bundle
from igsp_export.export import export_bundle
from igsp_export.fold import fold
from tests.tokenizers_at_hand import word_pieces

if TYPE_CHECKING:
    from tests.conftest import Bundled

TEXTS = ["a photo of a Red wall", "a photo of a red wall", "it's !(!§", "", "the dog and the cat " * 30]


def tokenizer_of(kind: str, folder: Path, context: int) -> Any:
    if kind == "CLIP's, upper case kept":
        return open_clip.SimpleTokenizer(context_length=context, clean="whitespace")
    pytest.importorskip("transformers")
    return HFTokenizer(
        str(folder if folder.exists() else word_pieces(folder)), context_length=context, strip_sep_token=True
    )


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("CLIP's, upper case kept", BundleTokenizer(clean="whitespace")),
        ("WordPiece", BundleTokenizer(kind="fast", clean="whitespace", zeroed_id=3, end_id=None)),
    ],
)
def test_texts_are_embedded_as_pytorch_embeds_them(
    kind: str, expected: BundleTokenizer, bundled: "Bundled", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = ModelFolder.load_backbone

    def changed(self: ModelFolder) -> Any:
        backbone = load(self)
        backbone.tokenizer = tokenizer_of(kind, tmp_path / "theirs", backbone.context_length)
        return backbone

    monkeypatch.setattr(ModelFolder, "load_backbone", changed)
    export_bundle(bundled.model, tmp_path / "bundle", precision=["fp32"], opset=23, check_limit=2)
    manifest = read_manifest(tmp_path / "bundle")
    assert manifest.tokenizer == expected
    assert manifest.format_version >= 5, "versions that know no other tokenizer refuse it"
    require(verify_bundle(tmp_path / "bundle"))
    learned = LearnedClip.open(ModelFolder.open(bundled.model))
    ours = Classifier(tmp_path / "bundle", "cpu").embed_text(TEXTS, 0)
    with torch.no_grad():
        theirs = learned.embed_text(learned.backbone.tokenize(TEXTS), 0).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    fold(ModelFolder.open(bundled.model), learned, 0, tmp_path / "folded", with_text=True, check_limit=2)
    told = json.loads((tmp_path / "folded" / "labels.json").read_text())["tokenizer"]
    assert (told["kind"], told["clean"], told["zeroed_id"]) == (expected.kind, expected.clean, expected.zeroed_id)


def test_a_bundle_that_says_nothing_has_clips_own(bundled: "Bundled", tmp_path: Path) -> None:
    values = json.loads((bundled.bundle / "manifest.json").read_text())
    del values["tokenizer"]
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    assert read_manifest(tmp_path).tokenizer == read_manifest(bundled.bundle).tokenizer == BundleTokenizer()
