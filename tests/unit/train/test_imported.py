"""A linear probe as a task: read or refused with a reason, and answered exactly as scikit-learn answers."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression, RidgeClassifier

from igsp_deploy.config import ModelConfig
from igsp_deploy.data import load_task_data, read_eval_images
from igsp_deploy.errors import UserError
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.learned import LearnedClip
from igsp_deploy.runtime.classifier import Classifier
from igsp_train import imported
from igsp_train.imported import read_probe
from igsp_train.report.command import commands_to_repeat

CLASSES = ["red", "blue"]


def write(path: Path, classes: list[str] | None = CLASSES, **tensors: Any) -> Path:
    arrays = {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}
    save_file(arrays, path, None if classes is None else {"classes": json.dumps(classes)})
    return path


def test_a_probe_of_two_classes_is_split_between_them(tmp_path: Path) -> None:
    probe = read_probe(write(tmp_path / "p.safetensors", weight=[[2.0, -4.0, 6.0]], bias=[0.0]))
    assert probe.classes == CLASSES
    assert probe.weight.tolist() == [[-1.0, 2.0, -3.0], [1.0, -2.0, 3.0]]


def test_a_bias_that_is_the_same_for_all_classes_changes_nothing(tmp_path: Path) -> None:
    weight = np.eye(3)
    for bias in ([0.5, 0.5, 0.5], [0.5]):
        probe = read_probe(write(tmp_path / "p.safetensors", None, weight=weight, bias=bias))
        assert probe.weight.tolist() == weight.tolist()
        assert probe.classes is None


@pytest.mark.parametrize(
    ("tensors", "classes", "text"),
    [
        (
            {"weight": np.eye(2), "bias": [0.0, 0.3]},
            CLASSES,
            r"differ between classes by up to 0.3.*fit_intercept=False",
        ),
        ({"weight": np.eye(2)[:1], "bias": [0.3]}, CLASSES, "fit_intercept=False"),
        ({"weight": np.eye(2), "bias": [0.0, np.nan]}, CLASSES, "fit_intercept=False"),
        ({"weight": np.eye(2), "bias": [0.0] * 3}, CLASSES, "bias must have 2 numbers"),
        ({"coef": np.eye(2)}, CLASSES, r"must hold weight .*has coef .*From scikit-learn: import json"),
        ({"weight": np.eye(2), "mean": [1.0]}, CLASSES, "has mean beside them"),
        ({"weight": np.full((2, 2), np.nan)}, CLASSES, "must be finite numbers"),
        ({"weight": np.zeros(2)}, CLASSES, "must be finite numbers"),
        ({"weight": np.eye(3)}, CLASSES, "has 3 rows and names 2 classes"),
        ({"weight": np.eye(2)}, ["red", "red"], "names 1 classes"),
        ({"visual.resblocks.0.mlp.c_fc.lora_A.weight": np.eye(2)}, CLASSES, "low-rank adapter of c_fc"),
    ],
)
def test_what_is_no_probe_is_refused_in_one_line(
    tmp_path: Path, tensors: dict[str, Any], classes: list[str], text: str
) -> None:
    path = write(tmp_path / "p.safetensors", classes, **tensors)
    with pytest.raises(UserError, match=text) as error:
        read_probe(path)
    assert "\n" not in str(error.value)


class Bomb:
    """Ends the test if it is unpickled."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("a pickle was opened",)


def test_a_pickle_is_never_opened_and_the_line_that_saves_its_numbers_works(tmp_path: Path) -> None:
    path = tmp_path / "probe.joblib"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match="could run code and is never opened") as error:
        read_probe(path)
    assert "\n" not in str(error.value)
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(60, 5)), generator.choice(["red", "blue", "green"], 60)
    for fit in (LogisticRegression, RidgeClassifier):
        for classes in (3, 2):
            rows = slice(None) if classes == 3 else y != "green"
            probe = fit(fit_intercept=False).fit(x[rows], y[rows])
            line = str(error.value).partition("in memory: ")[2].replace('"probe.safetensors"', "str(out)")
            exec(line, {"probe": probe, "out": tmp_path / "out.safetensors"})
            read = read_probe(tmp_path / "out.safetensors")
            assert read.classes == sorted(set(y[rows]))
            best = (torch.from_numpy(x[rows]).float() @ read.weight.T).argmax(1)
            assert [read.classes[i] for i in best.tolist()] == probe.predict(x[rows]).tolist()


def test_an_adapter_is_refused_with_its_layers_and_the_reason(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "target_modules": ["fc2", "fc1"]}))
    for path in (folder, folder / "adapter_config.json"):
        with pytest.raises(
            UserError, match=r"adapter of fc1, fc2\. .*before its nonlinearity or behind it.*igsp train"
        ):
            read_probe(path)
    with pytest.raises(UserError, match="is a folder"):
        read_probe(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        read_probe(tmp_path / "absent")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Path]) -> Path:
    return make_model(tmp_path_factory.mktemp("m") / "model", ModelConfig(backbone="debug", rank=2, vision_blocks=2))


def embeddings(model: Path, source: Path) -> tuple[NDArray[np.float32], NDArray[np.float32], list[str], list[str]]:
    """Embeddings of plain CLIP of the training and the test images of a source, and their labels."""
    learned = LearnedClip.open(ModelFolder.open(model))
    data = load_task_data("t", str(source))
    found: list[Any] = []
    for items in (data.train, data.test):
        images, labels, _ = read_eval_images(items, learned.backbone.preprocess)
        found.append(learned.embed(learned.trunk(torch.from_numpy(images)), -2).numpy())
        found.append([data.classes[i] for i in labels])
    return found[0], found[2], found[1], found[3]


def fitted(model: Path, source: Path, path: Path) -> tuple[LogisticRegression, NDArray[np.float32], list[str]]:
    """A probe on the training images, saved to `path`; with embeddings and labels of the test images."""
    train, test, labels, expected = embeddings(model, source)
    labels = [next(name for name in labels if name != label) if i % 3 == 0 else label for i, label in enumerate(labels)]
    # Strong, for the debug backbone's embeddings lie close together; with mistakes to tell it from words by.
    probe = LogisticRegression(fit_intercept=False, C=100, max_iter=1000).fit(train, labels)
    write(path, list(probe.classes_), weight=probe.coef_, bias=np.atleast_1d(probe.intercept_))
    return probe, test, expected


def test_it_is_measured_exported_verified_and_served_beside_the_others(
    model: Path, task_data: Path, tmp_path: Path, igsp: Callable[..., Any]
) -> None:
    source = task_data / "stripes"
    probe, test, expected = fitted(model, source, tmp_path / "p.safetensors")
    before = [ModelFolder.open(model).fingerprint(t) for t in range(2)]
    done = igsp("import", model, "tints", tmp_path / "p.safetensors", "--data", source)
    assert done.returncode == 0, done.stderr
    assert "tints: imported; validation" in done.stderr
    assert "Images of tints" in done.stderr
    folder = ModelFolder.open(model)
    assert [folder.fingerprint(t) for t in range(2)] == before
    record = folder.tasks[2]
    assert record.kept_parameters == 2 * test.shape[1]

    values = json.loads(igsp("evaluate", model, "--json").stdout)
    assert values["given"][2][2] == round(100 * float(np.mean(probe.predict(test) == expected)), 2)
    assert values["given"][2][0] == values["given"][0][0]

    done = igsp("export", model, tmp_path / "bundle")
    assert done.returncode == 0, done.stderr
    assert igsp("verify", tmp_path / "bundle").returncode == 0
    files = sorted((source / "test").rglob("*.png"))
    classifier = Classifier(tmp_path / "bundle")
    classifier.engine.remove_task("tints")  # it comes and goes while a server runs, as any task does
    classifier.engine.add_task(tmp_path / "bundle", "tints")
    shares = np.array(
        [
            [dict(zip(found.labels, found.scores, strict=True))[name] for name in probe.classes_]
            for found in classifier.classify(files, task="tints")
        ]
    )
    by_file = np.array([probe.predict_proba(row[None])[0] for row in _embedded(model, files)])
    np.testing.assert_allclose(shares, by_file, atol=1e-5)
    assert len({round(share, 2) for share in shares[:, 0]}) > 2, "the test is too easy"
    done = igsp("predict", tmp_path / "bundle", files[0], "--task", "tints", "--json")
    assert done.returncode == 0, done.stderr


def _embedded(model: Path, files: list[Path]) -> NDArray[np.float32]:
    from igsp_deploy.bundle.preprocess import load_image, to_uint8

    learned = LearnedClip.open(ModelFolder.open(model))
    images = np.stack([to_uint8(load_image(file), learned.backbone.preprocess) for file in files])
    return learned.embed(learned.trunk(torch.from_numpy(images)), -2).numpy()


def test_an_imported_task_is_warned_of_as_a_learned_one_is(
    model: Path, task_data: Path, tmp_path: Path, igsp: Callable[..., Any]
) -> None:
    fitted(model, task_data / "colors", tmp_path / "p.safetensors")
    source = tmp_path / "few"
    shutil.copytree(task_data / "colors", source)
    for file in sorted((source / "train" / "red").iterdir())[3:]:
        file.unlink()
    options = ["--data", source, "--backbone", "debug"]
    done = igsp("import", tmp_path / "new", "tints", tmp_path / "p.safetensors", *options)
    assert done.returncode == 0, done.stderr
    text = "fewer than 5 training images in red"
    assert f"tints: warning: {text}." in done.stderr
    assert ModelFolder.open(tmp_path / "new").tasks[0].metrics["warnings"][0] == text


def test_a_new_model_can_begin_with_a_probe_and_go_on_learning(
    model: Path, task_data: Path, tmp_path: Path, igsp: Callable[..., Any]
) -> None:
    fitted(model, task_data / "colors", tmp_path / "p.safetensors")
    new, settings = tmp_path / "new", ["--set", "model.vision_blocks=2"]
    source = ["--data", task_data / "colors"]
    done = igsp("import", new, "tints", tmp_path / "p.safetensors", *source, "--backbone", "debug", *settings)
    assert done.returncode == 0, done.stderr
    task = ["--task", f"stripes={task_data / 'stripes'}", "--set", "learn.steps=2"]
    done = igsp("train", new, *task)
    assert done.returncode == 0, done.stderr
    first, second = commands_to_repeat(ModelFolder.open(new))
    assert first.startswith(
        "igsp import new tints p.safetensors --set model.backbone=debug --set model.vision_blocks=2 "
    )
    assert second.startswith("igsp train new --set learn.steps=2 ")
    assert "tints" not in second
    done = igsp("report", new, "--out", tmp_path / "r.html", "--images", 1)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "r.html").read_text()
    assert "igsp import new tints p.safetensors" in page
    assert "were not recorded" not in page


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["other", "wide.safetensors"], "is of embeddings of 3 numbers; those of debug have"),
        (["other", "named.safetensors"], "has the classes left, right, the images have 2: blue, red"),
        (["other", "three.safetensors"], "has 3 classes, the images have 2"),
        (["colors", "good.safetensors"], "already has a task 'colors'"),
        (["Colors!", "good.safetensors"], "a task's name must be"),
        (["other", "good.safetensors", "--set", "learn.steps=3"], "is not learned"),
        (["other", "good.safetensors", "--set", "data.shots=2", "--set", "data.augment=trivial"], "data.augment and"),
        (["other", "good.safetensors", "--set", "model.rank=9"], "was made with model.rank = 2"),
        (["other", "good.safetensors", "--set", "model.rank=16"], "was made with model.rank = 2, got 16"),
    ],
)
def test_what_does_not_fit_leaves_the_model_as_it_was(
    model: Path, task_data: Path, tmp_path: Path, igsp: Callable[..., Any], arguments: list[str], text: str
) -> None:
    width = ModelFolder.open(model).load_backbone().embed_dim
    write(tmp_path / "wide.safetensors", weight=np.zeros((2, 3)))
    write(tmp_path / "named.safetensors", ["left", "right"], weight=np.zeros((2, width)))
    write(tmp_path / "three.safetensors", None, weight=np.zeros((3, width)))
    write(tmp_path / "good.safetensors", weight=np.zeros((2, width)))
    before = sorted(model.rglob("*"))
    name, file, *more = arguments
    done = igsp("import", model, name, tmp_path / file, "--data", task_data / "colors", *more)
    assert done.returncode in (1, 2)
    assert text in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert sorted(model.rglob("*")) == before


def test_a_new_model_is_not_begun_by_a_probe_that_does_not_fit(
    task_data: Path, tmp_path: Path, igsp: Callable[..., Any]
) -> None:
    write(tmp_path / "p.safetensors", weight=np.zeros((2, 3)))
    arguments = ["--data", task_data / "colors", "--backbone", "debug"]
    assert igsp("import", tmp_path / "m", "tints", tmp_path / "p.safetensors", *arguments).returncode == 1
    assert not (tmp_path / "m").exists()


def test_the_saving_line_is_one_line() -> None:
    assert "\n" not in imported.SAVE


def test_names_are_the_same_however_their_accents_are_written(tmp_path: Path) -> None:
    write(tmp_path / "p.safetensors", ["cafe\u0301", "the\u0301"], weight=np.zeros((2, 3)))
    assert read_probe(tmp_path / "p.safetensors").classes == ["caf\u00e9", "th\u00e9"]
