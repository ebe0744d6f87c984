"""The accuracy matrix against a slow, image-by-image computation from the definitions."""

import csv
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from igsp_deploy.config import LearnConfig, ModelConfig, RunConfig
from igsp_deploy.data import load_task_data, read_eval_images
from igsp_deploy.errors import UserError
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.learned import LearnedClip
from igsp_deploy.model.selector import Selector
from igsp_deploy.names import PLAIN
from igsp_train.evaluate import evaluate_model
from igsp_train.metrics import summary
from igsp_train.sequence import train_sequence

QUIET = Console(quiet=True)


def write_task(root: Path, shade: int) -> str:
    generator = np.random.default_rng(shade)
    for split, count in (("train", 10), ("test", 6)):
        for channel, colour in enumerate(("red", "green", "blue")):
            (root / split / colour).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 90, (32, 32, 3), dtype=np.uint8)
                pixels[..., channel] += np.uint8(shade)
                Image.fromarray(pixels).save(root / split / colour / f"{number}.png")
    return str(root)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluate")
    tasks = {name: write_task(root / name, shade) for name, shade in (("dim", 20), ("mid", 25), ("bright", 160))}
    config = RunConfig(
        model=ModelConfig(backbone="debug", rank=2, vision_blocks=2),
        learn=LearnConfig(steps=30, batch_size=8, warmup_steps=2, num_candidates=2),
        tasks=tasks,
    )
    train_sequence(root / "model", config, console=QUIET)
    return root / "model"


def test_the_matrices_equal_an_image_by_image_computation(model: Path) -> None:
    result = evaluate_model(model, console=QUIET)
    folder = ModelFolder.open(model)
    backbone = folder.load_backbone()
    learned = LearnedClip.open(folder, backbone)
    vectors = functools.cache(learned.class_vectors)
    total = len(folder.tasks)
    given, auto, incremental = np.zeros((total, total)), np.zeros((total, total)), np.zeros((total, total))
    chosen_last = np.zeros((total, total + 1), dtype=int)
    everything = [(i, c) for i, task in enumerate(folder.tasks) for c in range(len(task.classes))]
    for i, record in enumerate(folder.tasks):
        data = load_task_data(record.name, record.source)
        images, labels, _ = read_eval_images(data.test, backbone.preprocess)
        for image, label in zip(images, labels, strict=True):
            x = learned.trunk(torch.from_numpy(image[None]))
            read = learned.clip.summary(x)

            def predict(t: int, of: int, x: torch.Tensor = x) -> int:
                scores = learned.embed(x, t) @ vectors(of, under=t).T
                head = learned.head_vectors(of) if t == of else None
                return int((scores if head is None else scores + learned.read(x) @ head.T).argmax())

            for j in range(total):
                selector = folder.selector(j + 1)
                assert selector is not None
                t = int(selector.choose(read)[0])
                known = i if i <= j else PLAIN
                given[j, i] += predict(known, i) == label
                auto[j, i] += predict(t, i) == label
                if t == PLAIN:
                    seen = [vectors(k, under=PLAIN) for k in range(j + 1)]
                    answer = everything[int((learned.embed(x, PLAIN) @ torch.cat(seen).T).argmax())]
                else:
                    answer = (t, predict(t, t))
                incremental[j, i] += answer == (i, label)
            chosen_last[i, t if t != PLAIN else total] += 1
    count = len(labels)
    np.testing.assert_allclose(result["given"], 100 * given / count, atol=0.006)
    np.testing.assert_allclose(result["auto"], 100 * auto / count, atol=0.006)
    for j in range(total):
        row = result["class_incremental"][j]
        np.testing.assert_allclose(row[: j + 1], 100 * incremental[j, : j + 1] / count, atol=0.006)
        assert row[j + 1 :] == [None] * (total - j - 1)
        assert not incremental[j, j + 1 :].any(), "a class that is not known cannot be answered"
    assert result["open_last"] == result["class_incremental"][-1]
    means = [100 * incremental[j, : j + 1].mean() / count for j in range(total)]
    measured = {"average": pytest.approx(np.mean(means), abs=0.01), "last": pytest.approx(means[-1], abs=0.01)}
    change = summary(100 * incremental / count)
    measured |= {name: pytest.approx(change[name], abs=0.01) for name in ("backward_transfer", "forgetting")}
    assert result["metrics"]["class_incremental"] == measured
    assert (incremental[-1] != np.diag(incremental)).any(), "the test is too easy to tell the steps apart"
    assert result["confusion"] == chosen_last.tolist()
    expected = summary(100 * given / count)
    assert {k: pytest.approx(v, abs=0.01) for k, v in expected.items()} == result["metrics"]["given"]
    assert len({tuple(row) for row in result["auto"]}) > 1, "the test is too easy to tell selectors apart"


def test_answers_are_those_of_the_final_model_image_by_image(model: Path, tmp_path: Path) -> None:
    result = evaluate_model(model, errors=tmp_path / "errors.csv", console=QUIET)
    with (tmp_path / "errors.csv").open(newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    folder = ModelFolder.open(model)
    learned = LearnedClip.open(folder)
    everything = [(i, c) for i, task in enumerate(folder.tasks) for c in range(len(task.classes))]
    wrong = 0
    for i, record in enumerate(folder.tasks):
        test = load_task_data(record.name, record.source).test
        images, labels, _ = read_eval_images(test, learned.backbone.preprocess)
        confusion = np.zeros((3, 3), int)
        for path, image, label in zip(test.paths, images, labels, strict=True):
            x = learned.trunk(torch.from_numpy(image[None]))
            given = learned.predict(x, i).softmax(1)[0]
            confusion[label, int(given.argmax())] += 1
            chosen = int(learned.choose(x)[0])
            score, best = learned.predict(x, chosen).softmax(1)[0].max(0)
            answer = everything[int(best)] if chosen == PLAIN else (chosen, int(best))
            if int(given.argmax()) == label and answer == (i, label):
                assert str(path) not in rows
                continue
            wrong += 1
            row = rows[str(path)]
            assert (row["task"], row["label"]) == (record.name, record.classes[label])
            assert row["predicted"] == record.classes[int(given.argmax())]
            assert float(row["score"]) == pytest.approx(float(given.max()), abs=1e-4)
            assert row["task_chosen"] == ("" if chosen == PLAIN else folder.tasks[chosen].name)
            assert (row["answer_task"], row["answer"]) == (
                folder.tasks[answer[0]].name,
                folder.tasks[answer[0]].classes[answer[1]],
            )
            assert float(row["answer_score"]) == pytest.approx(float(score), abs=1e-4)
        assert [row["images"] for row in result["per_class"][i]] == confusion.sum(1).tolist()
        expected = 100 * confusion.diagonal() / confusion.sum(1)
        np.testing.assert_allclose([row["recall"] for row in result["per_class"][i]], expected, atol=0.006)
    assert len(rows) == wrong > 0, "the test is too easy"
    assert any(row["task_chosen"] not in ("", row["task"]) for row in rows.values()), "the test is too easy"
    wrongly = [(row["task"], Path(file)) for file, row in rows.items() if row["label"] != row["predicted"]]
    assert len(result["worst"]) == min(20, len(wrongly)) > 0
    for shown in result["worst"]:
        assert any(task == shown["task"] and path.match(shown["file"]) for task, path in wrongly), shown
        assert not Path(shown["file"]).is_absolute()
    assert result["skipped"] == [{"count": 0, "first": []}] * 3


def test_a_place_for_the_mistakes_is_looked_at_first(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        evaluate_model(model, errors=tmp_path, console=QUIET)


def test_tasks_learned_earlier_keep_their_accuracy_exactly(model: Path) -> None:
    matrix = evaluate_model(model, console=QUIET)["given"]
    for i in range(len(matrix)):
        assert len({matrix[j][i] for j in range(i, len(matrix))}) == 1


def test_other_images_of_the_same_classes_can_be_given(model: Path, tmp_path: Path) -> None:
    other = evaluate_model(model, {"mid": write_task(tmp_path / "other", 5)}, console=QUIET)
    assert other["test_images"] == [18, 18, 18]
    assert other["given"][2][1] != evaluate_model(model, console=QUIET)["given"][2][1]


def test_images_of_other_classes_are_refused(model: Path, tmp_path: Path) -> None:
    write_task(tmp_path / "t", 60)
    for split in ("train", "test"):
        (tmp_path / "t" / split / "red").rename(tmp_path / "t" / split / "crimson")
    with pytest.raises(UserError, match="crimson"):
        evaluate_model(model, {"mid": str(tmp_path / "t")}, console=QUIET)


def test_images_that_are_gone_are_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.*--task mid=FOLDER"):
        evaluate_model(model, {"mid": str(tmp_path / "nowhere")}, console=QUIET)


def test_plain_clip_answers_among_the_classes_learned_so_far(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every image left to plain CLIP, and task words that differ, each new task adds answers that can be wrong."""
    monkeypatch.setattr(Selector, "choose", lambda self, read, among=None: torch.full((len(read),), PLAIN))
    folder = ModelFolder.open(model)
    words = [[f"a {record.name} {name}" for name in record.display_names] for record in folder.tasks]
    for record, names in zip(folder.tasks, words, strict=True):
        object.__setattr__(record, "display_names", names)
    monkeypatch.setattr(ModelFolder, "open", classmethod(lambda cls, path: folder))
    result = evaluate_model(model, console=QUIET)["class_incremental"]
    plain = LearnedClip.open(folder)
    for i, record in enumerate(folder.tasks):
        data = load_task_data(record.name, record.source)
        images, labels, _ = read_eval_images(data.test, plain.backbone.preprocess)
        features = plain.embed(plain.trunk(torch.from_numpy(images)), PLAIN)
        for j in range(i, len(folder.tasks)):
            seen = [plain.class_vectors(k, under=PLAIN) for k in range(j + 1)]
            answers = (features @ torch.cat(seen).T).argmax(1).numpy()
            right = answers == labels + sum(len(names) for names in words[:i])
            assert result[j][i] == pytest.approx(100 * right.mean(), abs=0.006)
    assert any(len({row[i] for row in result[i:]}) > 1 for i in range(len(result))), "no task took an answer away"
