"""From names and files to a backbone that runs as its weights were trained; everything from local files."""

import json
import logging
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file
from torch import Tensor, nn

from igsp_deploy.config import ModelConfig, SelectorConfig
from igsp_deploy.errors import UserError
from igsp_deploy.model import loading
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.loading import load_backbone, settled

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
OPENAI = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Architectures of our own among open_clip's: one with plain GELU, one with QuickGELU."""
    folder = tmp_path_factory.mktemp("configs")
    configs: dict[str, dict[str, Any]] = {
        "tiny-ViT": {},
        "tiny-ViT-quickgelu": {"quick_gelu": True},
        "tiny-wide": {"embed_dim": 32},
    }
    for name, more in configs.items():
        (folder / f"{name}.json").write_text(json.dumps(TINY | more))
    open_clip.add_model_config(folder)
    yield
    open_clip.factory._MODEL_CONFIG_PATHS.remove(folder)
    open_clip.factory._rescan_model_configs()
    for name in configs:
        open_clip.factory._MODEL_CONFIGS.pop(name, None)


@pytest.fixture
def weights() -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return dict(open_clip.create_model("tiny-ViT").state_dict())


def tags(monkeypatch: pytest.MonkeyPatch, file: Path, **of_tags: dict[str, Any]) -> None:
    """Tags of tiny-ViT whose download is the file."""
    from open_clip import pretrained

    monkeypatch.setitem(pretrained._PRETRAINED, "tiny-ViT", {tag: {"url": "x", **cfg} for tag, cfg in of_tags.items()})
    monkeypatch.setattr("open_clip.factory.download_pretrained", lambda *_, **__: str(file))


def saved(folder: Path, weights: dict[str, Tensor]) -> Path:
    save_file(weights, folder / "w.safetensors")
    return folder / "w.safetensors"


def activation(clip: Any) -> type:
    return type(clip.visual.transformer.resblocks[0].mlp.gelu)


class TestAsTrained:
    def test_a_tag_brings_its_activation_and_its_pixels(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, weights: dict[str, Tensor]
    ) -> None:
        squash = {**HALF, "interpolation": "bilinear", "resize_mode": "squash"}
        tags(monkeypatch, saved(tmp_path, weights), quick={**OPENAI, "quick_gelu": True}, plain={}, other=squash)
        quick, plain, other = (load_backbone("tiny-ViT", tag) for tag in ("quick", "plain", "other"))
        assert activation(quick.clip) is QuickGELU
        assert activation(plain.clip) is nn.GELU
        assert plain.preprocess.mean == pytest.approx(open_clip.OPENAI_DATASET_MEAN)
        assert (other.preprocess.resize_mode, other.preprocess.interpolation) == ("squash", "bilinear")
        assert other.preprocess.mean == (0.5, 0.5, 0.5)

    def test_the_features_are_those_of_the_quickgelu_architecture(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, weights: dict[str, Tensor]
    ) -> None:
        file = saved(tmp_path, weights)
        tags(monkeypatch, file, quick={"quick_gelu": True})
        pixels = torch.randn(2, 3, 32, 32)
        by_tag = load_backbone("tiny-ViT", "quick").clip.encode_image(pixels)
        assert torch.equal(by_tag, load_backbone("tiny-ViT-quickgelu", str(file)).clip.encode_image(pixels))

    def test_a_local_file_is_as_all_tags_are(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, weights: dict[str, Tensor], caplog: Any
    ) -> None:
        file = saved(tmp_path, weights)
        way = {**HALF, "quick_gelu": True, "resize_mode": "squash"}
        tags(monkeypatch, file, one=way, two=way)
        found = load_backbone("tiny-ViT", str(file))
        assert activation(found.clip) is QuickGELU
        assert found.preprocess.resize_mode == "squash"
        assert found.preprocess.mean == (0.5, 0.5, 0.5)
        assert not caplog.records

    def test_where_tags_differ_that_is_said_and_can_be_set(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, weights: dict[str, Tensor], caplog: Any
    ) -> None:
        file = saved(tmp_path, weights)
        tags(monkeypatch, file, one={**HALF, "quick_gelu": True}, two={})
        with caplog.at_level(logging.WARNING, "igsp_deploy.backbone"):
            unsure = load_backbone("tiny-ViT", str(file))
        (line,) = caplog.messages
        assert "mean, std, quick_gelu" in line
        assert "model.preprocess" in line
        assert "one, two" in line
        assert activation(unsure.clip) is nn.GELU
        assert unsure.preprocess.mean == pytest.approx(open_clip.OPENAI_DATASET_MEAN)
        for preprocess in ("one", "tiny-ViT:one"):
            sure = load_backbone("tiny-ViT", str(file), preprocess)
            assert activation(sure.clip) is QuickGELU
            assert sure.preprocess.mean == (0.5, 0.5, 0.5)
        assert len(caplog.messages) == 1
        with pytest.raises(UserError, match=r"no tag 'three'\. Tags: one, two"):
            load_backbone("tiny-ViT", str(file), "three")
        with pytest.raises(UserError, match="says itself how it was trained"):
            load_backbone("tiny-ViT", "two", "one")

    def test_a_model_keeps_what_it_was_made_with(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, weights: dict[str, Tensor], caplog: Any
    ) -> None:
        file = saved(tmp_path, weights)
        tags(monkeypatch, file, one={**HALF, "quick_gelu": True, "resize_mode": "squash"}, two={})
        config = settled(ModelConfig(backbone="tiny-ViT", pretrained=str(file), preprocess="one", rank=2))
        backbone = load_backbone("tiny-ViT", str(file), "one")
        ModelFolder.create(tmp_path / "model", backbone, config, SelectorConfig())
        tags(monkeypatch, file, one={}, two={})  # another release of open_clip
        again = ModelFolder.open(tmp_path / "model").load_backbone()
        assert again.preprocess == backbone.preprocess
        assert activation(again.clip) is QuickGELU
        assert not caplog.records
        # A model from before any of this was kept runs as it did when it was learned.
        path = tmp_path / "model" / "config.json"
        values = json.loads(path.read_text())
        del values["backbone"]["preprocess"], values["backbone"]["quick_gelu"], values["model"]["preprocess"]
        values["backbone"]["decoding"] = "scaled"
        path.write_text(json.dumps(values))
        tags(monkeypatch, file, one={**HALF, "quick_gelu": True, "resize_mode": "squash"})
        old = ModelFolder.open(tmp_path / "model").load_backbone()
        assert activation(old.clip) is nn.GELU
        assert old.preprocess.resize_mode == "shortest"

    def test_every_real_tag_says_an_activation_and_a_way_that_can_be_followed(self) -> None:
        for name, tag in open_clip.list_pretrained():
            way = loading._way(name, tag, None, known=False)
            assert way["resize_mode"] in ("shortest", "longest", "squash"), (name, tag)
            assert isinstance(way["quick_gelu"], bool)
        assert loading._way("ViT-B-32", "openai", None, known=False)["quick_gelu"]
        assert not loading._way("ViT-B-32", "laion2b_s34b_b79k", None, known=False)["quick_gelu"]


class Scripted(nn.Module):
    """Stands for OpenAI's archives: weights under their names, and three numbers beside them."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        for name, value in weights.items():
            place: nn.Module = self
            *path, last = name.split(".")
            for part in path:
                if not hasattr(place, part):
                    place.add_module(part, nn.Module())
                place = getattr(place, part)
            place.register_buffer(last, value.clone())
        for name in ("input_resolution", "context_length", "vocab_size"):
            self.register_buffer(name, torch.tensor(7))

    def forward(self, x: Tensor) -> Tensor:
        return x


def as_archive(weights: dict[str, Tensor], path: Path) -> None:
    torch.jit.script(Scripted(weights)).save(str(path))


SAVERS: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "w.safetensors": lambda weights, path: save_file(weights, path),
    "state.pt": lambda weights, path: torch.save(weights, path),
    "epoch_3.pt": lambda weights, path: torch.save(
        {"epoch": 3, "name": "run", "state_dict": {f"module.{k}": v for k, v in weights.items()}, "optimizer": {}}, path
    ),
    "half.pt": lambda weights, path: torch.save(
        {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}, path
    ),
    "ViT-B-32.pt": as_archive,
}


@pytest.mark.parametrize("name", SAVERS)
def test_every_kind_of_file_gives_its_weights(name: str, tmp_path: Path, weights: dict[str, Tensor]) -> None:
    SAVERS[name](weights, tmp_path / name)
    found = load_backbone("tiny-ViT", str(tmp_path / name))
    for key, value in found.clip.state_dict().items():
        expected = weights[key].half().float() if name == "half.pt" else weights[key]
        assert torch.equal(value, expected), key
    if name != "half.pt":
        save_file(weights, tmp_path / "plain.safetensors")
        assert found.weight_hash == load_backbone("tiny-ViT", str(tmp_path / "plain.safetensors")).weight_hash


class Harmful:
    """A pickle that would run a command."""

    def __reduce__(self) -> Any:
        return (print, ("it ran",))


def _with(weights: dict[str, Tensor], **changes: Tensor | None) -> dict[str, Tensor]:
    changed = {**weights, **{key.replace("__", "."): value for key, value in changes.items()}}
    return {key: value for key, value in changed.items() if value is not None}


def _cut(save: Callable[..., None], weights: dict[str, Tensor], path: Path) -> None:
    save(weights, path)
    path.write_bytes(path.read_bytes()[:20000])


WRONG: dict[str, tuple[Callable[[dict[str, Tensor], Path], object], str]] = {
    "transformers": (
        lambda w, p: torch.save({"vision_model.embeddings.x": w["logit_scale"]}, p),
        "form of the package transformers",
    ),
    "lacks": (lambda w, p: torch.save(_with(w, text_projection=None), p), "lacks text_projection"),
    "besides": (lambda w, p: torch.save(_with(w, extra__a=w["logit_scale"]), p), "has besides extra.a"),
    "other size": (
        lambda w, p: torch.save(_with(w, visual__positional_embedding=torch.zeros(5, 32)), p),
        r"visual.positional_embedding is \(5, 32\), not \(17, 32\)",
    ),
    "not finite": (
        lambda w, p: torch.save(_with(w, text_projection=torch.full((32, 24), float("nan"))), p),
        "not finite in text_projection",
    ),
    "harmful": (lambda w, p: torch.save({"state_dict": w, "x": Harmful()}, p), "would run code of its own"),
    "whole model": (lambda w, p: torch.save(nn.Linear(2, 2), p), "would run code of its own"),
    "no weights": (lambda w, p: torch.save({"epoch": 3}, p), "holds no state dict"),
    "empty": (lambda w, p: p.write_bytes(b""), "cannot be read as weights"),
    "text": (lambda w, p: p.write_text("<html>not found</html>"), "cannot be read as weights"),
    "a git lfs pointer": (lambda w, p: p.write_text("version https://git-lfs..."), "cannot be read as weights"),
    "cut off": (
        lambda w, p: _cut(torch.save, w, p),
        "cannot be read as weights.*cut off",
    ),
    "cut safetensors": (
        lambda w, p: _cut(save_file, w, p),
        "cannot be read as weights.*cut off",
    ),
    "another archive": (lambda w, p: zipfile.ZipFile(p, "w").writestr("a.txt", "x"), "cannot be read as weights"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_file_that_is_none_gets_one_clear_line(
    kind: str, tmp_path: Path, weights: dict[str, Tensor], capsys: Any
) -> None:
    make, message = WRONG[kind]
    path = tmp_path / "file.pt"
    make(weights, path)
    with pytest.raises(UserError, match=message) as error:
        load_backbone("tiny-ViT", str(path))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700
    assert "file.pt" in str(error.value)
    assert "it ran" not in capsys.readouterr().out


def test_weights_of_another_architecture_name_what_differs(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    with pytest.raises(UserError, match=r"another architecture than tiny-wide: it .*\(32, 24\), not \(32, 32\)"):
        load_backbone("tiny-wide", str(saved(tmp_path, weights)))


def test_what_cannot_be_learned_with_is_refused_before_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise AssertionError("it was downloaded")

    monkeypatch.setattr("open_clip.factory.download_pretrained", download)
    monkeypatch.setattr(loading, "towers", lambda clip, name: (_ for _ in ()).throw(UserError("not this one")))
    with pytest.raises(UserError, match="not this one"):
        load_backbone("ViT-B-32", "openai")


class TestBesideItsConfiguration:
    @pytest.fixture
    def folder(self, tmp_path: Path, weights: dict[str, Tensor]) -> Path:
        save_file(weights, tmp_path / "open_clip_model.safetensors")
        way = {**HALF, "resize_mode": "squash", "interpolation": "bilinear", "size": 32}
        config = {"model_cfg": TINY | {"quick_gelu": True}, "preprocess_cfg": way}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        return tmp_path

    def test_a_folder_is_loaded_with_all_it_says(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder.parent)
        config = settled(ModelConfig(backbone=f"local-dir:{folder.name}", rank=2))
        assert config.backbone == f"local-dir:{folder}"
        found = load_backbone(config.backbone)
        assert activation(found.clip) is QuickGELU
        assert found.preprocess.resize_mode == "squash"
        assert found.preprocess.mean == (0.5, 0.5, 0.5)
        ModelFolder.create(folder / "model", found, config, SelectorConfig())
        monkeypatch.chdir("/")
        assert ModelFolder.open(folder / "model").load_backbone().weight_hash == found.weight_hash

    def test_a_folder_without_weights_is_not_a_random_model(self, folder: Path) -> None:
        (folder / "open_clip_model.safetensors").unlink()
        with pytest.raises(UserError, match="cannot load local-dir:"):
            load_backbone(f"local-dir:{folder}")

    def test_of_the_hub_the_configuration_comes_first(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[str] = []

        def fetch(model_id: str, filename: str | None = None, **_: Any) -> str:
            asked.append(filename or "weights")
            return str(folder / (filename or "open_clip_model.safetensors"))

        monkeypatch.setattr("open_clip.factory.download_pretrained_from_hf", fetch)
        found = load_backbone("hf-hub:someone/tiny")
        assert found.preprocess.resize_mode == "squash"
        assert asked[0] == "open_clip_config.json"
        asked.clear()
        monkeypatch.setattr(loading, "towers", lambda clip, name: (_ for _ in ()).throw(UserError("not it")))
        with pytest.raises(UserError, match="not it"):
            load_backbone("hf-hub:someone/tiny")
        assert asked == ["open_clip_config.json"], "nothing large was fetched"

    def test_a_hub_that_cannot_be_reached_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fetch(*_: Any, **__: Any) -> str:
            raise OSError("no network")

        monkeypatch.setattr("open_clip.factory.download_pretrained_from_hf", fetch)
        with pytest.raises(UserError, match="cannot fetch the configuration of hf-hub:a/b: no network"):
            load_backbone("hf-hub:a/b")

    def test_names_that_bring_their_weights_take_none(self, folder: Path) -> None:
        with pytest.raises(UserError, match="leave `pretrained` empty"):
            load_backbone(f"local-dir:{folder}", "openai")
        with pytest.raises(UserError, match="leave `preprocess` empty"):
            load_backbone("nano", None, "openai")
