"""From images to labels."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from igsp_deploy.bundle.preprocess import ImageError
from igsp_deploy.errors import UserError
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.learned import LearnedClip
from igsp_deploy.names import PLAIN
from igsp_deploy.runtime.classifier import Classifier, ImageSource, check_min_score
from igsp_deploy.runtime.image_files import find_images

if TYPE_CHECKING:
    from tests.conftest import Bundled


@pytest.fixture(scope="module")
def classifier(bundled: "Bundled") -> Classifier:
    return Classifier.open(bundled.bundle, "cpu", num_threads=1)


def test_each_image_may_have_its_own_task(classifier: Classifier, bundled: "Bundled") -> None:
    path = bundled.images("colors")[0]
    tasks = ["colors", "stripes", "none", "auto"]
    together = classifier.classify([path] * 4, tasks)
    assert [p.task for p in together] == ["colors", "stripes", None, "colors"]
    for task, prediction in zip(tasks, together, strict=True):
        (alone,) = classifier.classify([path], task)
        assert alone.labels == prediction.labels
        assert alone.scores == pytest.approx(prediction.scores, abs=1e-5)
    assert together[0].labels == together[3].labels
    assert {*together[1].labels} == {"flat", "steep"}


def test_scores_are_the_softmax_over_the_tasks_classes(classifier: Classifier, bundled: "Bundled") -> None:
    path = bundled.images("stripes")[3]
    (prediction,) = classifier.classify([path], "stripes")
    folder = ModelFolder.open(bundled.model)
    record, backbone = folder.tasks[1], folder.load_backbone()
    learned = LearnedClip.open(folder, backbone)
    classes, head = learned.class_vectors(1).numpy(), learned.head_vectors(1)
    assert head is not None
    output = classifier.engine.run_images(classifier.load(path)[None], np.array([1]))
    logits = backbone.logit_scale * (classes @ output.features[0] + head.numpy() @ output.summary[0])
    expected = np.exp(logits) / np.exp(logits).sum()
    scores = dict(zip(prediction.labels, prediction.scores, strict=True))
    assert [scores[name] for name in record.classes] == pytest.approx(expected.tolist(), abs=1e-4)


def test_words_of_ones_own_and_plain_clip_are_compared_by_text_alone(
    classifier: Classifier, bundled: "Bundled"
) -> None:
    pixels = classifier.load(bundled.images("stripes")[3])[None]
    known, scale = classifier.engine.tasks, classifier.manifest.backbone.logit_scale
    assert [head is None for head in known.task_set.heads] == [True, False]
    for task, under in (("stripes", 1), ("none", PLAIN)):
        words = ["a flat wall", "a steep hill"]
        (prediction,) = classifier.classify([pixels[0]], task, prompts=words)
        features = classifier.engine.run_images(pixels, np.array([under])).features[0]
        logits = scale * classifier.embed_text(words, under) @ features
        expected = dict(zip(words, np.exp(logits) / np.exp(logits).sum(), strict=True))
        assert dict(zip(prediction.labels, prediction.scores, strict=True)) == pytest.approx(expected, abs=1e-4)
    plain = classifier.learned(known).of(PLAIN)
    assert plain.head is None
    np.testing.assert_allclose(np.linalg.norm(plain.embeddings, axis=1), 1.0, rtol=1e-5)


def test_plain_clip_chooses_among_the_classes_of_all_tasks(classifier: Classifier, bundled: "Bundled") -> None:
    (prediction,) = classifier.classify([bundled.images("colors")[0]], "none", top_k=9)
    assert prediction.zero_shot
    assert prediction.task is None
    assert dict(zip(prediction.labels, prediction.label_tasks, strict=True)) == {
        "red": "colors",
        "blue": "colors",
        "flat": "stripes",
        "steep": "stripes",
    }
    assert sum(prediction.scores) == pytest.approx(1.0)


def test_prompts_are_read_under_the_experts_of_the_images_task(classifier: Classifier, bundled: "Bundled") -> None:
    path, prompts = bundled.images("colors")[0], ["a cat", "dog"]
    plain, colors, stripes = classifier.classify([path] * 3, ["none", "colors", "stripes"], prompts=prompts)
    assert {*plain.labels} == {*colors.labels} == {*stripes.labels} == set(prompts)
    assert plain.label_tasks == (None, None)
    under = [classifier.embed_text(["a cat", "a photo of a dog."], task) for task in (PLAIN, 0, 1)]
    pixels = np.stack([classifier.load(path)] * 3)
    features = classifier.engine.run_images(pixels, np.array([PLAIN, 0, 1])).features
    for prediction, texts, feature in zip((plain, colors, stripes), under, features, strict=True):
        logits = classifier.manifest.backbone.logit_scale * texts @ feature
        expected = np.exp(logits) / np.exp(logits).sum()
        scores = dict(zip(prediction.labels, prediction.scores, strict=True))
        assert [scores[prompt] for prompt in prompts] == pytest.approx(expected.tolist(), abs=1e-4)
    assert np.abs(under[0] - under[1]).max() > 1e-3
    assert np.abs(under[1] - under[2]).max() > 1e-3


def test_any_source_of_an_image_gives_the_same(classifier: Classifier, bundled: "Bundled") -> None:
    path = bundled.images("colors")[1]
    sources: list[ImageSource] = [path, path.read_bytes(), Image.open(path), classifier.load(path)]
    predictions = classifier.classify(sources)
    assert all(p.labels == predictions[0].labels for p in predictions)


def test_top_k_limits_the_labels(classifier: Classifier, bundled: "Bundled") -> None:
    (one,) = classifier.classify([bundled.images("colors")[0]], "none", top_k=1)
    assert len(one.labels) == len(one.scores) == 1
    assert one.scores[0] < 1.0


def test_a_best_score_under_the_least_is_unsure_and_told_all_the_same(
    classifier: Classifier, bundled: "Bundled"
) -> None:
    images = [bundled.images("colors")[0], bundled.images("stripes")[0]]
    sure = classifier.classify(images)
    assert [one.unsure for one in sure] == [False, False]
    first, second = (one.scores[0] for one in sure)
    asked = classifier.classify(images, top_k=1, min_score=max(first, second))
    assert [one.unsure for one in asked] == [first < second, second < first]
    assert [one.labels[0] for one in asked] == [one.labels[0] for one in sure]
    for wrong in (-0.1, 1.1, float("nan"), True):
        with pytest.raises(UserError, match="min_score must be a probability between 0 and 1"):
            classifier.classify(images, min_score=wrong)


def test_more_images_than_a_batch_come_back_in_order(classifier: Classifier, bundled: "Bundled") -> None:
    paths = [*bundled.images("colors"), *bundled.images("stripes")] * 3
    found = [p.task for p in classifier.classify(paths)]
    assert found == (["colors"] * 8 + ["stripes"] * 8) * 3


def test_no_images_give_no_predictions(classifier: Classifier) -> None:
    assert classifier.classify([]) == []


def test_mistakes_are_said(classifier: Classifier, bundled: "Bundled") -> None:
    path = bundled.images("colors")[0]
    with pytest.raises(UserError, match="Did you mean 'stripes'"):
        classifier.classify([path], "stripe")
    with pytest.raises(UserError, match="got 2 for 1 images"):
        classifier.classify([path], ["auto", "auto"])
    with pytest.raises(UserError, match="top_k must be at least 1, got 0"):
        classifier.classify([path], top_k=0)
    with pytest.raises(UserError, match="at least one text"):
        classifier.classify([path], prompts=["", "  "])
    with pytest.raises(ImageError, match="does not exist"):
        classifier.classify([Path("absent.png")])


def test_folders_are_searched_and_files_taken_as_they_are(bundled: "Bundled", tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.JPG", "sub/a.png", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    assert find_images([tmp_path, Path("x.unknown")]) == [tmp_path / "b.JPG", tmp_path / "sub/a.png", Path("x.unknown")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no image"):
        find_images([tmp_path / "sub", tmp_path / "empty"])


@pytest.mark.parametrize("value", ["0.5", [0.5], None, True, float("nan"), 1.1])
def test_a_least_score_of_another_kind_is_told(value: Any) -> None:
    with pytest.raises(UserError, match="min_score must be a probability between 0 and 1"):
        check_min_score(value)
    for good in (0, 1, 0.5, np.float64(0.5)):
        check_min_score(good)
