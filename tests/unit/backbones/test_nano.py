"""The embedded backbone: interface, size, determinism, errors, export."""

import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from open_clip import SimpleTokenizer
from open_clip.model import CLIP
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

from igsp_deploy.backbones.nano import NANO_CONFIG, build_nano, nano_weights_path
from igsp_deploy.errors import UserError


@pytest.fixture(scope="module")
def nano() -> CLIP:
    return build_nano()


def images(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, 128, 128, generator=torch.Generator().manual_seed(seed))


def test_it_is_an_open_clip_model_of_plain_blocks(nano: CLIP) -> None:
    assert isinstance(nano, CLIP)
    assert isinstance(nano.visual, VisionTransformer)
    for transformer in (nano.visual.transformer, nano.transformer):
        assert all(type(block) is ResidualAttentionBlock for block in transformer.resblocks)
    assert len(nano.visual.transformer.resblocks) == NANO_CONFIG["vision_cfg"]["layers"]
    assert nano.visual.preprocess_cfg["mean"] == NANO_CONFIG["preprocess_cfg"]["mean"]


def test_both_towers_meet_in_one_space(nano: CLIP) -> None:
    tokens = SimpleTokenizer(context_length=NANO_CONFIG["context_length"])(["a photo of a cat.", "the letter b"])
    with torch.no_grad():
        seen, read = nano.encode_image(images(2), normalize=True), nano.encode_text(tokens, normalize=True)
    assert seen.shape == read.shape == (2, NANO_CONFIG["embed_dim"])
    assert torch.isfinite(seen @ read.T).all()
    assert not torch.allclose(read[0], read[1], atol=1e-2)


def test_it_is_frozen_and_in_eval_mode(nano: CLIP) -> None:
    assert not nano.training
    assert [name for name, p in nano.named_parameters() if p.requires_grad] == []


def test_two_loads_are_equal_bit_for_bit_and_leave_the_random_state_alone(nano: CLIP) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    again = build_nano().state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, again[name]) for name, value in nano.state_dict().items())


def test_the_weights_file_is_small() -> None:
    assert nano_weights_path().stat().st_size <= 16_000_000


def test_an_image_does_not_depend_on_its_batch(nano: CLIP) -> None:
    with torch.no_grad():
        whole, alone = nano.encode_image(images(4)), nano.encode_image(images(4)[1:2])
    assert torch.allclose(whole[1:2], alone, atol=1e-4)


def test_missing_damaged_and_foreign_weights_are_named(tmp_path: Path) -> None:
    missing, cut, foreign = (
        tmp_path / "none.safetensors",
        tmp_path / "cut.safetensors",
        tmp_path / "foreign.safetensors",
    )
    data = nano_weights_path().read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, foreign)
    for path, word in ((missing, "missing"), (cut, "damaged"), (foreign, "not a weights file of the nano backbone")):
        with pytest.raises(UserError, match=word) as caught:
            build_nano(path)
        assert re.search(re.escape(str(path)), str(caught.value))


def test_onnx_gives_the_same_features(nano: CLIP, tmp_path: Path) -> None:
    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.clip = nano

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self.clip.encode_image(pictures, normalize=True)
            return features

    path = tmp_path / "nano.onnx"
    with torch.no_grad():
        program = torch.onnx.export(
            Encoder().eval(), (images(2),), dynamo=True, opset_version=23, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=256)},),
        )  # fmt: skip
        assert program is not None
        program.save(str(path))
        expected = nano.encode_image(images(3, seed=5), normalize=True).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    got = session.run(None, {session.get_inputs()[0].name: images(3, seed=5).numpy()})[0]
    assert np.abs(got - expected).max() < 1e-4
