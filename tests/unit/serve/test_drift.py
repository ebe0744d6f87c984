"""What is kept of samples the model was unsure of."""

from pathlib import Path

import pytest

from igsp_deploy.runtime.classifier import Prediction
from igsp_serve.drift import Drift
from igsp_serve.settings import Settings
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


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_shares_are_those_of_recent_windows() -> None:
    clock = Clock()
    drift = Drift(Settings(), clock=clock)
    for _ in range(4):
        drift.sample(sample())
    clock.now += 300
    drift.sample(sample(task=None, margin=-3.0))
    drift.sample(sample(score=0.2))
    windows = drift.report()["windows"]
    assert windows["1m"] == {"images": 2, "low_confidence_share": 1.0, "chosen": 2, "fallback_share": 0.5}
    assert windows["10m"]["images"] == 6
    assert windows["10m"]["fallback_share"] == pytest.approx(1 / 6, abs=1e-4)
    clock.now += 100_000
    assert drift.report()["windows"]["24h"]["images"] == 0


def test_the_samples_are_the_last_ones_of_low_confidence() -> None:
    drift = Drift(Settings(drift_samples=3))
    for index in range(10):
        drift.sample(sample(score=0.01 * index))
        drift.sample(sample(score=0.9))
    assert [kept["score"] for kept in drift.report()["samples"]] == [0.09, 0.08, 0.07]
    assert "image" not in drift.report()["samples"][0]


def test_scores_of_each_task_are_summed_up() -> None:
    drift = Drift(Settings())
    for margin in (-1.0, 1.0, 3.0, 5.0):
        drift.sample(sample(margin=margin))
    drift.sample(sample(margin=100.0, chosen=False))
    ((task, summary),) = drift.report()["margins"].items()
    assert task == "shoes"
    assert summary["images"] == 4
    assert summary["mean"] == 2.0
    assert summary["below_threshold_share"] == 0.25


def test_images_are_kept_only_when_asked_for_and_within_both_caps(tmp_path: Path) -> None:
    settings = Settings(drift_images=tmp_path / "kept", drift_max_images=3, drift_max_bytes=1024)
    drift = Drift(settings)
    names = []
    for index in range(6):
        drift.sample(sample(score=0.1, data=b"GIF8" + bytes([index]) * 96))
        names.append(drift.report()["samples"][0]["image"])
    drift.sample(sample(score=0.1, data=b"x" * 2000))
    assert drift.report()["samples"][0]["image"] is None
    drift.close()
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == sorted(names[-3:])
    again = Drift(Settings(drift_images=tmp_path / "kept", drift_max_images=10, drift_max_bytes=1024))
    again.sample(sample(score=0.1, data=b"\xff\xd8" + bytes(900)))
    again.close()
    left = list((tmp_path / "kept").iterdir())
    assert len(left) == 2  # 902 new bytes leave room for one of 100
    assert sum(p.stat().st_size for p in left) <= 1024


def test_a_full_disk_costs_the_image_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    drift = Drift(Settings(drift_images=tmp_path))
    monkeypatch.setattr(Path, "write_bytes", full)
    drift.sample(sample(score=0.1))
    drift.close()
    assert list(tmp_path.iterdir()) == []
    assert len(drift.report()["samples"]) == 1
