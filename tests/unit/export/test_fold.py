"""A folded task gives what the bundle gives for that task, from one file with one input."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from igsp_deploy.config import ModelConfig, RouterInput
from igsp_deploy.errors import UsageError, UserError
from igsp_deploy.files import check_sums
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.clip import Clip
from igsp_deploy.model.experts import Experts
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.learned import LearnedClip
from igsp_deploy.runtime.engine import Engine
from igsp_export import fold as fold_module
from igsp_export.fold import IMAGE, LABELS, TEXT, check_options, fold, folded_task
from igsp_export.fold_graph import WidenedMlp, folded_clip
from igsp_export.images import synthetic_images
from tests.conftest import Bundled, MakeModel


@dataclasses.dataclass(frozen=True)
class Model:
    """A model folder, opened."""

    folder: ModelFolder
    learned: LearnedClip

    @property
    def backbone(self) -> Backbone:
        return self.learned.backbone

    def fold(self, task: int, out: Path, **options: Any) -> dict[str, Any]:
        return fold(self.folder, self.learned, task, out, **options)


def open_model(path: Path) -> Model:
    folder = ModelFolder.open(path)
    return Model(folder, LearnedClip.open(folder))


@pytest.fixture(scope="module")
def model(bundled: Bundled) -> Model:
    return open_model(bundled.model)


def run(path: Path, value: NDArray[Any]) -> list[NDArray[Any]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (only,) = session.get_inputs()
    result: list[NDArray[Any]] = session.run(None, {only.name: value})
    return result


@pytest.fixture(scope="module")
def fixed(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The second task, three images a call."""
    path = tmp_path_factory.mktemp("fold") / "fixed"
    model.fold(1, path, batch=3)
    return path


@pytest.mark.parametrize(("task", "opset"), [(0, 23), (1, 18)])
def test_a_folded_task_gives_what_the_bundle_gives_for_it(
    bundled: Bundled, model: Model, tmp_path: Path, task: int, opset: int
) -> None:
    images = synthetic_images(7, model.backbone.preprocess.size, seed=9)
    engine = Engine.open(bundled.bundle, "cpu")
    parity = model.fold(task, tmp_path / "out", opset=opset, with_text=True)["parity"]
    features, probabilities, *summary = run(tmp_path / "out" / IMAGE, images)
    output = engine.run_images(images, np.full(7, task))
    theirs = output.features
    np.testing.assert_allclose(features, theirs, atol=1e-5)
    logits = model.backbone.logit_scale * theirs @ model.learned.class_vectors(task).numpy().T
    head = model.learned.head_vectors(task)
    assert (head is None, len(summary)) == ((True, 0) if task == 0 else (False, 1))
    if head is not None:
        np.testing.assert_allclose(summary[0], output.summary, atol=1e-4)
        logits += model.backbone.logit_scale * output.summary @ head.numpy().T
    np.testing.assert_allclose(probabilities, torch.from_numpy(logits).softmax(-1).numpy(), atol=1e-4)
    ids = model.backbone.tokenize(["a red wall", "", "two dogs on a lawn"]).numpy()
    embeddings = run(tmp_path / "out" / TEXT, ids)[0]
    np.testing.assert_allclose(embeddings, engine.embed_text(ids, np.full(3, task)), atol=1e-5)
    assert parity["feature_difference"] < 1e-5
    assert parity["text_difference"] < 1e-5
    assert (parity["origin"], parity["images"], parity["top1_differing"]) == ("test images", 8, 0)


@pytest.mark.parametrize("router_input", ["class_token", "mean_token", "static"])
@pytest.mark.parametrize("experts", [1, 3])
def test_a_widened_mlp_equals_the_mlp_and_the_experts_beside_it(
    model: Model, router_input: RouterInput, experts: int
) -> None:
    width, rank = model.backbone.vision_width, 2
    random = torch.Generator().manual_seed(experts)
    own = Experts(
        down=torch.randn(experts * rank, width, generator=random) * width**-0.5,
        up=torch.randn(width, experts * rank, generator=random),
        router_weight=torch.randn(experts, width, generator=random),
        router_bias=torch.randn(experts, generator=random),
        scale=0.7,
        router_input=router_input,
    )
    beside, folded = Clip(model.backbone, [], exact=False), folded_clip(model.backbone, {("vision", 1): own})
    x = torch.randn(4, 17, width, generator=random)
    with torch.no_grad():
        torch.testing.assert_close(folded.vision.blocks[1](x), beside.vision.blocks[1](x, own), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("router_input", ["mean_token", "static"])
def test_every_router_input_can_be_folded(make_model: MakeModel, tmp_path: Path, router_input: RouterInput) -> None:
    config = ModelConfig(backbone="debug", rank=1, vision_blocks=1, router_input=router_input, scale=0.5)
    result = open_model(make_model(tmp_path / "model", config)).fold(1, tmp_path / "out")
    assert result["parity"]["feature_difference"] < 1e-5
    assert result["parity"]["probability_difference"] < 1e-4
    assert result["parity"]["top1_differing"] == 0


def test_a_task_without_any_expert_folds_to_plain_clip(bundled: Bundled, tmp_path: Path) -> None:
    model = open_model(bundled.model)
    model.learned.tasks = (dataclasses.replace(model.learned.tasks[0], experts={}),)
    model.fold(0, tmp_path / "out")
    images = synthetic_images(3, model.backbone.preprocess.size)
    plain = Engine.open(bundled.bundle, "cpu").run_images(images, np.full(3, -2)).features
    np.testing.assert_allclose(run(tmp_path / "out" / IMAGE, images)[0], plain, atol=1e-5)


def test_a_block_whose_experts_were_all_dropped_keeps_its_own_mlp(model: Model) -> None:
    own = model.learned.tasks[0].experts["vision", 1]
    assert own.router_weight is not None
    empty = Experts(
        down=own.down[:0],
        up=own.up[:, :0],
        router_weight=own.router_weight[:0],
        router_bias=own.router_bias[:0],
        scale=own.scale,
    )
    folded = folded_clip(model.backbone, {("vision", 1): empty, ("vision", 2): own})
    assert [isinstance(block.replaced, WidenedMlp) for block in folded.vision.blocks] == [False, False, True]


def test_a_fixed_batch_leaves_no_free_size_and_no_other_input(fixed: Path, model: Model) -> None:
    graph = onnx.shape_inference.infer_shapes(onnx.load(fixed / IMAGE)).graph
    assert [value.name for value in graph.input] == ["images"]
    for value in (*graph.input, *graph.output, *graph.value_info):
        assert all(d.HasField("dim_value") for d in value.type.tensor_type.shape.dim), value.name
    assert not {node.op_type for node in graph.node} & {"Shape", "ScatterElements", "Where", "GatherND", "ReduceMax"}
    images = synthetic_images(3, model.backbone.preprocess.size)
    features, probabilities, *_ = run(fixed / IMAGE, images)
    theirs = model.learned.embed(model.learned.trunk(torch.from_numpy(images)), 1).numpy()
    np.testing.assert_allclose(features, theirs, atol=1e-5)
    assert probabilities.shape == (3, 2)


def test_weights_too_large_for_one_file_lie_beside_the_graph(
    model: Model, fixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("igsp_export.onnx_file.LARGEST_FILE", 1000)
    model.fold(1, tmp_path / "out", batch=3)
    assert (tmp_path / "out" / f"{IMAGE}.data").stat().st_size > 1000
    images = synthetic_images(3, model.backbone.preprocess.size)
    for ours, one_file in zip(run(tmp_path / "out" / IMAGE, images), run(fixed / IMAGE, images), strict=True):
        np.testing.assert_array_equal(ours, one_file)


def test_an_adapted_block_multiplies_by_as_many_weights_as_a_plain_one(fixed: Path) -> None:
    graph = onnx.load(fixed / IMAGE).graph
    sizes = {t.name: sorted(t.dims) for t in graph.initializer}
    products = [sizes.get(node.input[1]) for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    width, rank = 32, 4  # of the second task's two experts
    # Blocks 1 and 2 are adapted, block 0 is not.
    assert products.count([width, 4 * width]) == 2
    assert products.count([width, 4 * width + rank]) == 4
    assert products.count([rank, width]) == 0
    assert set(sizes) <= {name for node in graph.node for name in node.input}


def test_the_labels_say_what_the_outputs_mean(fixed: Path) -> None:
    labels = json.loads((fixed / LABELS).read_text())
    assert (labels["task"], labels["labels"], labels["batch"]) == ("stripes", ["flat", "steep"], 3)
    assert labels["image"]["size"] == 32
    check_sums(fixed, "")
    content = (fixed / IMAGE).read_bytes()
    assert str(Path(fold_module.__file__).parent).encode() not in content


def test_half_precision_stays_within_its_tolerance_and_keeps_its_ends_in_full(model: Model, tmp_path: Path) -> None:
    parity = model.fold(0, tmp_path / "out", precision="fp16")["parity"]
    assert 0 < parity["feature_difference"] < 2e-2
    assert 0 < parity["cosine_difference"] < 4e-3
    assert parity["head_difference"] < 1e-4
    graph = onnx.load(tmp_path / "out" / IMAGE).graph
    assert {value.type.tensor_type.elem_type for value in graph.output} == {onnx.TensorProto.FLOAT}
    kinds = {tuple(sorted(t.dims)): t.data_type for t in graph.initializer}
    assert kinds[(1, 1, 1, 3)] == onnx.TensorProto.FLOAT  # the pixels' normalisation
    assert kinds[(2, 24)] == onnx.TensorProto.FLOAT  # the classes
    assert kinds[(32, 128 + 2)] == onnx.TensorProto.FLOAT16


def test_a_graph_that_differs_from_pytorch_is_not_written(
    fixed: Path, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_another_task(module: object, inputs: object, outputs: object, path: Path, **options: object) -> None:
        shutil.copyfile(fixed / IMAGE, path)

    monkeypatch.setattr(fold_module, "write_folded", write_another_task)
    with pytest.raises(UserError, match=r"features differ by .* Nothing was written"):
        model.fold(0, tmp_path / "out", batch=3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_probabilities_of_other_classes_or_another_scale_are_not_written(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """Features and best class are right in both: only the probabilities tell."""
    right = fold_module.write_folded

    def write_another_scale(module: Any, *arguments: Any, **options: Any) -> None:
        module.class_vectors *= 0.9
        right(module, *arguments, **options)

    monkeypatch.setattr(fold_module, "write_folded", write_another_scale)
    with pytest.raises(UserError, match="probabilities beside the graph's own features differ"):
        model.fold(0, tmp_path / "out", precision=precision)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("feature_difference", 2e-4, "features differ by 0.0002"),
        ("feature_difference", float("nan"), "features differ by nan"),
        ("cosine_difference", 2e-4, "cosines with the classes differ by 0.0002"),
        ("head_difference", 0.01, "probabilities beside the graph's own features differ by 0.01"),
        ("head_difference", float("nan"), "probabilities beside the graph's own features differ by nan"),
        ("text_difference", 2e-4, "text embeddings differ"),
        ("top1_differing", 1, "another class is best for 1 of 8 images"),
    ],
)
def test_the_gate_knows_every_way_to_differ(key: str, value: float, message: str) -> None:
    parity = {"images": 8, "feature_difference": 9e-5, "cosine_difference": 9e-5, "head_difference": 9e-4}
    parity["top1_differing"] = 0
    fold_module.judge(parity, "fp32")
    with pytest.raises(UserError, match=message):
        fold_module.judge(parity | {key: value}, "fp32")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: folded_task("colours", ["colors", "stripes"]), "Did you mean 'colors'"),
        (lambda: folded_task("auto", ["colors", "stripes"]), "knows one task and cannot choose"),
        (lambda: check_options(["int8"], 23, None), "one precision of fp32, fp16, got int8"),
        (lambda: check_options(["fp32", "fp16"], 23, None), "one precision"),
        (lambda: check_options(["fp32"], 17, None), "opset must be one of 18, 23, got 17"),
        (lambda: check_options(["fp32"], 23, 0), "at least 1, got 0"),
    ],
)
def test_what_cannot_be_folded_is_refused(ask: Callable[[], object], message: str) -> None:
    with pytest.raises((UserError, UsageError), match=message):
        ask()
    assert folded_task("auto", ["auto"]) == 0
    assert folded_task("stripes", ["colors", "stripes"]) == 1


def test_a_folder_that_exists_is_left_alone(model: Model, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists already"):
        model.fold(0, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
