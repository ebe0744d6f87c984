"""The peak of memory of a stretch of work."""

from pathlib import Path

import numpy as np
import pytest
import torch

import igsp_train.memory
from igsp_train.memory import PeakMemory

SIZE = 120 << 20


def _use(size_bytes: int) -> None:
    np.ones(size_bytes, dtype=np.uint8)


def test_a_peak_inside_is_seen_and_one_before_is_forgotten() -> None:
    _use(2 * SIZE)
    memory = PeakMemory(torch.device("cpu"))
    before = memory.measured()["peak_rss_bytes"]
    _use(SIZE)
    after = memory.measured()["peak_rss_bytes"]
    assert before is not None
    assert after is not None
    if memory.of_the_process:
        assert after >= 2 * SIZE
    else:
        assert SIZE * 0.9 < after - before < SIZE * 1.5


def test_where_the_system_cannot_forget_the_peak_is_the_process_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(igsp_train.memory, "_CLEAR", Path("/absent/clear_refs"))
    _use(2 * SIZE)
    measured = PeakMemory(torch.device("cpu")).measured()
    assert measured["peak_rss_of_process"] is True
    assert measured["peak_rss_bytes"] is not None
    assert measured["peak_rss_bytes"] > 2 * SIZE
