"""What open_clip offers, as docs/backbones.md says it."""

import re
from pathlib import Path
from typing import Any

import open_clip
import pytest

from igsp_deploy.config import ModelConfig
from igsp_deploy.errors import UserError
from igsp_deploy.model import catalogue
from igsp_deploy.model.catalogue import architectures
from igsp_deploy.model.loading import settled
from igsp_deploy.model.named import SHORT_NAMES
from tests.bench.backbones import page, shares

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "backbones.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (\S+) \| [^|]+ \| [^|]+ \| [^|]+ \| [^|]+ \| \d+ \| (.*) \|$", re.MULTILINE)
ROWS = dict(ROW.findall(PAGE))


def test_none_that_was_accepted_has_fallen() -> None:
    accepted = [name for name, verdict in ROWS.items() if verdict == "yes"]
    assert len(accepted) >= 144
    offered = {one.name: one for one in architectures()}
    for name in accepted:
        found = offered[name]
        assert found.problem is None, found
        assert found.parameters or "hf_model_name" in open_clip.get_model_config(name)["text_cfg"]
        assert found.image_size


def test_the_page_names_all_architectures_and_its_sums() -> None:
    if f"open_clip {open_clip.__version__}:" not in PAGE:
        pytest.skip("the page is of another release of open_clip")
    ours = {name for name in open_clip.list_models() if not name.startswith("tiny-")}
    assert ours == set(ROWS)
    tags = {name: len(open_clip.list_pretrained_tags_by_model(name)) for name in ours}
    accepted = sum(tags[name] for name, verdict in ROWS.items() if verdict == "yes")
    assert f"with {accepted} of {sum(tags.values())} pretrained tags" in PAGE


def test_every_architecture_is_accepted_and_a_refused_one_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(ROWS.values()) == {"yes"}
    found = [*architectures("xlm-roberta-base-ViT-B-32"), *architectures("ViT-S-32-alt")]
    assert [one.problem for one in found] == [None, None]
    monkeypatch.setattr(catalogue, "towers", lambda clip, name: (_ for _ in ()).throw(UserError(f"{name}: not this.")))
    found += architectures("ViT-S-32-alt")
    assert found[2].problem == "not this"
    text = page(found)
    assert shares(found) in text
    assert dict(ROW.findall(text)) == {one.name: one.problem or "yes" for one in found}


def test_short_names_are_whole_names_that_are_accepted() -> None:
    assert len(SHORT_NAMES) == 5
    for short, place in SHORT_NAMES.items():
        whole = settled(ModelConfig(backbone=short))
        assert (whole.backbone, whole.pretrained) == (place.architecture, place.pretrained)
        assert whole.pretrained in open_clip.list_pretrained_tags_by_model(whole.backbone)
        assert ROWS[whole.backbone] == "yes"
    other = settled(ModelConfig(backbone="clip-b16", pretrained="dfn2b"))
    assert (other.backbone, other.pretrained) == ("ViT-B-16-quickgelu", "dfn2b")


def test_the_command_lists_them(igsp: Any) -> None:
    done = igsp("backbones")
    assert done.returncode == 0, done.stderr
    for name in ("nano", *SHORT_NAMES):
        assert name in done.stdout
    done = igsp("backbones", "ViT-S-32")
    assert done.returncode == 0, done.stderr
    assert "2 of 2 architectures are accepted" in done.stdout
    assert done.stderr == ""
    done = igsp("backbones", "no-such-thing")
    assert done.returncode == 1
    assert "no architecture with" in done.stderr
