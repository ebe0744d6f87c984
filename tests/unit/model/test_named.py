"""Short names of backbones: those of installed packages, working and broken ones."""

import re
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from igsp_deploy.backbones.debug import build_debug
from igsp_deploy.config import ModelConfig
from igsp_deploy.data.sources import parse_source
from igsp_deploy.errors import UserError
from igsp_deploy.model.loading import load_backbone, settled
from igsp_deploy.model.named import NamedBackbone, all_named

BUILT = NamedBackbone(what_for="x", build=lambda: (build_debug(3), open_clip.SimpleTokenizer(context_length=24)))
SHORT = NamedBackbone(what_for="y", architecture="ViT-B-32", pretrained="openai")


class Broken:
    """What packages get wrong."""

    raises = NamedBackbone(what_for="x", build=lambda: build_debug(1 // 0))
    no_pair = NamedBackbone(what_for="x", build=build_debug)
    neither = NamedBackbone(what_for="x")
    both = NamedBackbone(what_for="x", architecture="ViT-B-32", build=BUILT.build)
    number = 7


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a package onto the path whose entry points are those given."""

    def add(name: str, **points: str) -> None:
        place = tmp_path / f"{name}-1.0.dist-info"
        place.mkdir()
        (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"[{group}]\n{line}\n" for group, line in points.items()]
        (place / "entry_points.txt").write_text("".join(lines).replace("igsp_", "igsp."))

    monkeypatch.syspath_prepend(str(tmp_path))
    return add


def test_a_package_brings_a_clip_or_a_name_for_one(package: Any) -> None:
    package("theirs", igsp_backbones=f"built = {__name__}:BUILT\nshort = {__name__}:SHORT")
    state = torch.get_rng_state()
    backbone = load_backbone("built")
    assert torch.equal(torch.get_rng_state(), state)
    assert (backbone.name, backbone.pretrained) == ("built", None)
    assert backbone.weight_hash != load_backbone("debug").weight_hash
    assert load_backbone("built").weight_hash == backbone.weight_hash
    assert settled(ModelConfig(backbone="built")).backbone == "built"
    whole = settled(ModelConfig(backbone="short"))
    assert (whole.backbone, whole.pretrained) == ("ViT-B-32", "openai")
    assert settled(ModelConfig(backbone="short", pretrained="laion2b_e16")).pretrained == "laion2b_e16"
    assert list(all_named())[-2:] == ["built", "short"]
    with pytest.raises(UserError, match="brings its own weights"):
        load_backbone("built", "openai")
    with pytest.raises(UserError, match=re.escape("Nearest: built")):
        load_backbone("buil")


@pytest.mark.parametrize(
    ("point", "text"),
    [
        ("raises", "cannot be made: integer division or modulo by zero."),
        ("no_pair", "cannot be made: "),
        ("neither", "must have an architecture, with or without pretrained, or build alone."),
        ("both", "must have an architecture"),
        ("number", "is a int, not an igsp_deploy.model.named.NamedBackbone."),
        ("absent", "cannot be loaded"),
    ],
)
def test_a_broken_backbone_ends_in_one_line_that_names_the_package(package: Any, point: str, text: str) -> None:
    package("theirs", igsp_backbones=f"mine = {__name__}:Broken.{point}")
    with pytest.raises(UserError, match=text) as refused:
        load_backbone("mine")
    assert str(refused.value).startswith("the backbone 'mine' of the package theirs")
    assert "\n" not in str(refused.value)


def test_a_name_that_two_have_is_refused(package: Any, igsp: Any) -> None:
    package("theirs", igsp_backbones=f"nano = {__name__}:BUILT")
    with pytest.raises(UserError, match="the package theirs has the name of another backbone"):
        all_named()
    done = igsp("backbones")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: the backbone 'nano' of the package theirs has the name")
    assert done.stderr.count("\n") == 1
    assert load_backbone("nano").name == "nano"
    package("more", igsp_backbones=f"own = {__name__}:BUILT")
    package("most", igsp_backbones=f"own = {__name__}:BUILT")
    with pytest.raises(UserError, match=r"packages (more and most|most and more) both bring a backbone 'own'"):
        load_backbone("own")


def test_a_broken_source_ends_in_one_line_that_names_the_package(package: Any) -> None:
    package("theirs", igsp_sources=f"broken = {__name__}:Broken.absent")
    with pytest.raises(UserError, match=r"the source 'broken' of the package theirs cannot be loaded \(.*absent"):
        parse_source("broken:x")
