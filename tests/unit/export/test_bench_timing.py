"""The arithmetic of a measurement: rounds, ratios, profiles."""

import time
from collections.abc import Callable

import numpy as np
import pytest

from igsp_export.bench.profile import operator_times
from igsp_export.bench.timing import FEWEST_ROUNDS, interleave, paired_ratio


def _recorder(names: list[str], calls: list[str]) -> dict[str, Callable[[], None]]:
    def make(name: str) -> Callable[[], None]:
        return lambda: calls.append(name)

    return {name: make(name) for name in names}


def test_every_round_runs_every_candidate_once_in_changing_order() -> None:
    calls: list[str] = []
    names = ["a", "b", "c"]
    found = interleave(_recorder(names, calls), rounds=20, warm_up=0)
    rounds = [tuple(calls[start : start + 3]) for start in range(0, len(calls), 3)]
    assert len(rounds) == 20
    assert all(sorted(one) == names for one in rounds)
    assert len(set(rounds)) > 3
    assert all(len(found[name]) == 20 for name in names)


def test_order_is_the_seeds() -> None:
    orders = []
    for seed in (3, 3, 4):
        calls: list[str] = []
        interleave(_recorder(["a", "b", "c"], calls), rounds=10, warm_up=0, seed=seed)
        orders.append(calls)
    assert orders[0] == orders[1] != orders[2]


class Clock:
    """A clock that moves when somebody sleeps, and only then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        """Let so much time pass."""
        self.now += seconds


def test_warm_up_is_run_but_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    calls: list[str] = []

    def slow_at_first() -> None:
        calls.append("x")
        clock.sleep(0.05 if len(calls) <= 3 else 0.01)

    found = interleave({"x": slow_at_first}, rounds=4, warm_up=3)
    assert len(calls) == 7
    assert found["x"] == pytest.approx([10.0] * 4)


def test_latencies_are_milliseconds_of_the_right_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    candidates = {"slow": lambda: clock.sleep(0.02), "fast": lambda: clock.sleep(0.001)}
    found = interleave(candidates, rounds=4, warm_up=0)
    assert found["slow"] == pytest.approx([20.0] * 4)
    assert found["fast"] == pytest.approx([1.0] * 4)


def test_seconds_run_at_least_five_rounds() -> None:
    found = interleave({"x": lambda: None}, seconds=1e-9, warm_up=0)
    assert len(found["x"]) == FEWEST_ROUNDS


def test_ratio_is_paired_within_rounds() -> None:
    # The machine slows down tenfold meanwhile: unpaired medians would say nothing, pairs say 1.1 exactly.
    base = np.linspace(1.0, 10.0, 30)
    ratio = paired_ratio(1.1 * base, base)
    assert ratio.median == pytest.approx(1.1)
    assert ratio.low == pytest.approx(1.1)
    assert ratio.high == pytest.approx(1.1)


def test_interval_holds_the_median_and_narrows_with_rounds() -> None:
    random = np.random.default_rng(0)
    widths = []
    for rounds in (10, 1000):
        base = random.uniform(1, 2, rounds)
        ratio = paired_ratio(base * random.normal(1.05, 0.1, rounds), base)
        assert ratio.low <= ratio.median <= ratio.high
        widths.append(ratio.high - ratio.low)
    assert 0 < widths[1] < widths[0] / 3


def _event(name: str, operator: str, start: int, duration: int, provider: str = "CPU") -> dict[str, object]:
    arguments = {"op_name": operator, "provider": provider}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": start, "dur": duration, "args": arguments}


def test_profile_sums_nodes_by_provider_and_type() -> None:
    events: list[dict[str, object]] = [{"cat": "Session", "name": "model_run", "ts": 0, "dur": 9999, "args": {}}]
    for run in range(3):
        factor = 100 if run == 0 else 1  # the first run is not counted
        events += [
            _event("m1", "MatMul", 1000 * run, 2000 * factor, "CUDA"),
            _event("m2", "MatMul", 1000 * run + 1, 4000 * factor, "CUDA"),
            _event("m3", "MatMul", 1000 * run + 2, 1000 * factor),
            _event("s", "Softmax", 1000 * run + 3, 3000 * factor),
        ]
    rows = operator_times("g", events, skip=1)
    assert [(r.provider, r.operator, r.nodes, r.milliseconds) for r in rows] == [
        ("CUDA", "MatMul", 2, 6.0),
        ("CPU", "Softmax", 1, 3.0),
        ("CPU", "MatMul", 1, 1.0),
    ]
    assert [row.share for row in rows] == pytest.approx([0.6, 0.3, 0.1])
