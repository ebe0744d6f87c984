"""What is kept of samples the model was unsure of."""

from pathlib import Path

import pytest

from igsp_deploy.runtime.classifier import Prediction
from igsp_serve.drift import SAMPLES, Drift, ImageFolder, is_unsure
from igsp_serve.watchers import Sample


def sample(
    *, score: float = 0.9, margin: float = 5.0, task: str | None = "shoes", chosen: bool = True, data: bytes = b"GIF8"
) -> Sample:
    found = Prediction(
        labels=("boot",),
        scores=(score,),
        label_tasks=(task,),
        task=task,
        task_scores={"shoes": margin, "digits": margin - 1},
        zero_shot=task is None,
    )
    return Sample(source=data, prediction=found, chosen=chosen, prompted=False, request_id="r")


def test_the_samples_are_the_last_ones_of_low_confidence() -> None:
    drift = Drift()
    for _ in range(SAMPLES + 10):
        drift.sample(sample(score=0.0))
    for index in range(10):
        drift.sample(sample(score=0.01 * index))
        drift.sample(sample(score=0.9))
    kept = drift.report()["samples"]
    assert len(kept) == SAMPLES
    assert [row["score"] for row in kept[:3]] == [0.09, 0.08, 0.07]
    assert "image" not in drift.report()["samples"][0]


def test_images_are_kept_only_when_asked_for_and_within_both_caps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFolder.__init__, "__kwdefaults__", {"most": 3, "most_bytes": 1024})
    drift = Drift(tmp_path / "kept")
    names = []
    for index in range(6):
        drift.sample(sample(score=0.1, data=b"GIF8" + bytes([index]) * 96))
        names.append(drift.report()["samples"][0]["image"])
    drift.sample(sample(score=0.1, data=b"x" * 2000))
    assert drift.report()["samples"][0]["image"] is None
    drift.close()
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == sorted(names[-3:])
    monkeypatch.setattr(ImageFolder.__init__, "__kwdefaults__", {"most": 10, "most_bytes": 1024})
    again = Drift(tmp_path / "kept")
    again.sample(sample(score=0.1, data=b"\xff\xd8" + bytes(900)))
    again.close()
    left = list((tmp_path / "kept").iterdir())
    assert len(left) == 2  # 902 new bytes leave room for one of 100
    assert sum(p.stat().st_size for p in left) <= 1024


def test_a_full_disk_costs_the_image_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    drift = Drift(tmp_path)
    monkeypatch.setattr(Path, "write_bytes", full)
    drift.sample(sample(score=0.1))
    drift.close()
    assert list(tmp_path.iterdir()) == []
    assert len(drift.report()["samples"]) == 1


def test_unsure_is_a_low_score_or_an_image_that_no_task_took() -> None:
    assert is_unsure(sample(score=0.49))
    assert is_unsure(sample(task=None))
    assert not is_unsure(sample(task=None, chosen=False))
    assert not is_unsure(sample(score=0.5))
