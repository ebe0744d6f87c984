"""The model repository, held against Triton's own configuration format and against the engine. No server runs here."""

import json
import re
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
import tritonclient
from google.protobuf import text_format
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import model_config_pb2

from igsp_deploy.bundle.manifest import Variant, read_manifest
from igsp_deploy.errors import UserError
from igsp_deploy.runtime.classifier import Classifier
from igsp_deploy.runtime.tasks import TaskSet
from igsp_export.triton import TritonSettings, graphs_of, write_triton

if TYPE_CHECKING:
    from tests.unit.export.conftest import Opened

ONNX_TYPES = {"tensor(uint8)": "TYPE_UINT8", "tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32"}
MIXED = np.arange(16) % 4 - 2


def write(opened: "Opened", out: Path, settings: TritonSettings | None = None) -> list[str]:
    tasks = TaskSet.read(opened.bundle, opened.engine.manifest)
    graphs = graphs_of(opened.engine.variant, tasks.image, tasks.text, tasks.selector.stacks())
    return write_triton(opened.bundle, out, graphs, settings)


@pytest.fixture(scope="module")
def on_gpu(trunk: "Opened", tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("triton") / "one"
    assert write(trunk, out) == ["igsp_image", "igsp_text"]
    return out


@pytest.fixture(scope="module")
def on_cpu(trunk: "Opened", tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("triton") / "cpu"
    write(trunk, out, TritonSettings(device="cpu", instances=3))
    return out


@pytest.fixture(params=["on_gpu", "on_cpu"])
def repository(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


def config_of(model: Path) -> Any:
    return text_format.Parse((model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def session_of(model: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return onnxruntime.InferenceSession(str(model / "1" / "model.onnx"), options, providers=["CPUExecutionProvider"])


def models_of(repository: Path) -> list[Path]:
    return sorted(path for path in repository.iterdir() if path.is_dir())


class EmulatedTriton:
    """What Triton does with a request by the configuration: checks, reshapes, runs, reshapes back."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository

    def infer(self, model: str, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        folder = self.repository / model
        config, session = config_of(folder), session_of(folder)
        assert set(arrays) == {tensor.name for tensor in config.input}
        feeds = {}
        for tensor in config.input:
            array = arrays[tensor.name]
            name = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_").lower()
            assert array.dtype == np.dtype(name)
            assert 1 <= len(array) <= config.max_batch_size
            assert len(array.shape) == 1 + len(tensor.dims)
            assert all(dim in (-1, size) for dim, size in zip(tensor.dims, array.shape[1:], strict=True))
            shape = tensor.reshape.shape if tensor.HasField("reshape") else array.shape[1:]
            feeds[tensor.name] = array.reshape(len(array), *shape)
        names = [tensor.name for tensor in config.output]
        outputs = {}
        for tensor, value in zip(config.output, session.run(names, feeds), strict=True):
            if tensor.HasField("reshape"):
                assert value.shape[1:] == tuple(tensor.reshape.shape)
                value = value.reshape(len(value), *tensor.dims)
            assert all(dim in (-1, size) for dim, size in zip(tensor.dims, value.shape[1:], strict=True))
            outputs[tensor.name] = value
        return outputs


def test_names_types_and_sizes_in_the_configuration_are_the_graphs(repository: Path) -> None:
    for model in models_of(repository):
        config, session = config_of(model), session_of(model)
        assert config.name == model.name
        assert (config.backend, config.platform) == ("onnxruntime", "onnxruntime_onnx")
        assert not session.get_overridable_initializers()
        for tensors, values in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
            assert [tensor.name for tensor in tensors] == [value.name for value in values]
            for tensor, value in zip(tensors, values, strict=True):
                assert model_config_pb2.DataType.Name(tensor.data_type) == ONNX_TYPES[value.type]
                # Triton wants the first dimension free, and no tensor without a dimension beside it.
                assert isinstance(value.shape[0], str)
                dims = [size if isinstance(size, int) else -1 for size in value.shape[1:]]
                assert list(tensor.dims) == (dims or [1])
                assert tensor.HasField("reshape") == (not dims)
                assert list(tensor.reshape.shape) == []


def test_batches_and_instances_are_as_asked_for(on_gpu: Path, on_cpu: Path, trunk: "Opened", tmp_path: Path) -> None:
    kind = model_config_pb2.ModelInstanceGroup
    for repository, device, count in ((on_gpu, kind.KIND_GPU, 1), (on_cpu, kind.KIND_CPU, 3)):
        for model in models_of(repository):
            config = config_of(model)
            assert [(group.kind, group.count) for group in config.instance_group] == [(device, count)]
            assert config.max_batch_size == 64
            assert list(config.dynamic_batching.preferred_batch_size) == [8, 16, 32, 64]
            assert config.dynamic_batching.max_queue_delay_microseconds == 1000
    write(trunk, tmp_path / "other", TritonSettings(max_batch_size=4, preferred_batch_sizes=(), queue_delay_us=0))
    config = config_of(tmp_path / "other" / "igsp_image")
    assert config.max_batch_size == 4
    assert config.HasField("dynamic_batching")
    assert list(config.dynamic_batching.preferred_batch_size) == []
    assert config.dynamic_batching.max_queue_delay_microseconds == 0


def test_a_request_is_answered_with_what_the_engine_gives(on_gpu: Path, trunk: "Opened") -> None:
    found = EmulatedTriton(on_gpu).infer("igsp_image", {"images": trunk.images, "task": MIXED[:, None]})
    expected = trunk.engine.run_images(trunk.images, MIXED)
    np.testing.assert_allclose(found["features"], expected.features, atol=1e-5)
    np.testing.assert_array_equal(found["used_task"][:, 0], expected.task)
    np.testing.assert_allclose(found["task_scores"], expected.task_scores, rtol=1e-4, atol=1e-2)
    ids, task = trunk.ids[:, :4], np.array([0, 1, -2])
    found = EmulatedTriton(on_gpu).infer("igsp_text", {"ids": ids, "task": task[:, None]})
    np.testing.assert_allclose(found["embeddings"], trunk.engine.embed_text(trunk.ids, task), atol=1e-5)


def test_the_readmes_client_finds_the_labels_that_the_classifier_finds(
    trunk: "Opened",
    on_gpu: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    opened, repository = trunk, on_gpu
    paths = []
    for number, pixels in enumerate([*opened.images, (np.indices((32, 32)).sum(0) % 2 * 255)[..., None].repeat(3, 2)]):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels.astype(np.uint8)).save(paths[-1])
    readme = (repository / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert code is not None
    client = _http_client(repository)
    monkeypatch.setitem(sys.modules, "tritonclient.http", client)
    # `import tritonclient.http as ...` reads the package's attribute where the real one was imported before.
    monkeypatch.setattr(tritonclient, "http", client, raising=False)
    monkeypatch.setattr(sys, "argv", ["client.py", *map(str, paths)])
    monkeypatch.chdir(repository)
    exec(compile(code[1], "README.md", "exec"), {"__name__": "__main__"})
    predictions = Classifier(opened.engine).classify(paths)
    assert capsys.readouterr().out.splitlines() == [
        f"{path} {prediction.labels[0]} {prediction.task or 'plain CLIP'}"
        for path, prediction in zip(paths, predictions, strict=True)
    ]
    assert len({prediction.task for prediction in predictions}) > 1
    assert "{" not in re.sub(r"```.*?```", "", readme, flags=re.DOTALL)


def _http_client(repository: Path) -> types.ModuleType:
    """`tritonclient.http` as far as the README uses it, without a network."""

    class InferInput:
        def __init__(self, name: str, shape: list[int], datatype: str) -> None:
            self.name, self.shape, self.datatype = name, shape, datatype

        def set_data_from_numpy(self, array: NDArray[Any]) -> None:
            assert list(array.shape) == self.shape
            assert array.dtype == np.dtype(self.datatype.lower())
            self.array = array

    class Result:
        def __init__(self, values: dict[str, NDArray[Any]]) -> None:
            self.as_numpy = values.__getitem__

    class InferenceServerClient:
        def __init__(self, url: str) -> None:
            assert url == "localhost:8000"

        def infer(self, model: str, inputs: list[InferInput]) -> Result:
            return Result(EmulatedTriton(repository).infer(model, {value.name: value.array for value in inputs}))

    module = types.ModuleType("tritonclient.http")
    module.InferInput, module.InferenceServerClient = InferInput, InferenceServerClient  # type: ignore[attr-defined]
    return module


def test_the_repository_holds_labels_and_class_embeddings_beside_the_models(on_gpu: Path, trunk: "Opened") -> None:
    files = sorted(path.relative_to(on_gpu).as_posix() for path in on_gpu.rglob("*") if path.is_file())
    assert files == [
        "README.md",
        "classes.safetensors",
        "igsp_image/1/model.onnx",
        "igsp_image/config.pbtxt",
        "igsp_text/1/model.onnx",
        "igsp_text/config.pbtxt",
        "labels.json",
        "tokenizer.json",
    ]
    labels = json.loads((on_gpu / "labels.json").read_text())
    manifest = trunk.engine.manifest
    assert [(task["name"], tuple(task["classes"])) for task in labels["tasks"]] == [
        (task.name, task.classes) for task in manifest.tasks
    ]
    assert labels["logit_scale"] == manifest.backbone.logit_scale
    assert "--gpus all" in (on_gpu / "README.md").read_text()


def test_half_precision_is_refused_for_the_cpu(
    trunk: "Opened", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(trunk.bundle)
    half = Variant(precision="fp16", image="image.fp32.onnx", text="t", providers=("CUDAExecutionProvider",))
    object.__setattr__(manifest, "variants", (half,))
    monkeypatch.setattr("igsp_export.triton.read_manifest", lambda bundle: manifest)
    with pytest.raises(UserError, match=r"may run on CUDAExecutionProvider only, not on the cpu"):
        write(trunk, tmp_path / "out", TritonSettings(device="cpu"))
    assert not list(tmp_path.iterdir())


def test_a_graph_that_the_bundle_does_not_have_is_refused(trunk: "Opened", tmp_path: Path) -> None:
    graphs = graphs_of(Variant(precision="x", image="a", text="b", providers=()), {}, {}, {})
    with pytest.raises(UserError, match="the bundle has no graph 'a'"):
        write_triton(trunk.bundle, tmp_path / "out", graphs)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_batch_size": 0}, "max_batch_size must be at least 1"),
        ({"instances": 0}, "instances and max_batch_size must be at least 1"),
        ({"queue_delay_us": -1}, "queue_delay_us at least 0"),
        ({"max_batch_size": 16}, "from 1 to max_batch_size 16, got 32"),
    ],
)
def test_settings_that_triton_would_refuse_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TritonSettings(**values)


def test_a_damaged_bundle_is_not_served(trunk: "Opened", tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(trunk.bundle, tmp_path / "bundle"))
    (copy / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        write_triton(copy, tmp_path / "out", [])
    assert not (tmp_path / "out").exists()
