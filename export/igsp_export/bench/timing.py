"""Timing candidates side by side: every round runs each of them once, in an order of its own."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
"""Bootstrap samples behind an interval."""
COVERAGE = 95.0
"""Percent of the bootstrap medians that an interval holds."""
FEWEST_ROUNDS = 5
"""Rounds that are run however long they take."""
PAUSE_S = 0.01
"""Before each call: threads of the last candidate's runtime spin for a while, and would take the cores of the next."""
MOST_ROUNDS = 500
"""Rounds after which more time is not used."""

Latencies = dict[str, NDArray[np.float64]]
"""Candidate -> milliseconds of each round."""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How much longer one candidate takes than another: the median over rounds of the ratio within a round.

    Attributes:
        median: of the paired ratios.
        low: lower end of its bootstrap interval.
        high: upper end.
    """

    median: float
    low: float
    high: float


def interleave(
    candidates: Mapping[str, Callable[[], Any]],
    *,
    rounds: int | None = None,
    seconds: float = 20.0,
    warm_up: int = 2,
    seed: int = 0,
) -> Latencies:
    """Time every candidate once a round, in a shuffled order, so that what the machine does meanwhile hits all alike.

    Args:
        candidates: name -> what to run; it returns when its work is done.
        rounds: how many; None runs for `seconds`, but at least 5 and at most 500.
        seconds: how long, warm-up not counted.
        warm_up: calls of each candidate before, which are not counted.
        seed: of the orders.
    """
    for call in candidates.values():
        for _ in range(warm_up):
            call()
    random = np.random.default_rng(seed)
    names = list(candidates)
    found: dict[str, list[float]] = {name: [] for name in names}
    started, done = time.perf_counter(), 0
    while not _enough(done, rounds, time.perf_counter() - started, seconds):
        for position in random.permutation(len(names)):
            name = names[position]
            time.sleep(PAUSE_S)
            begin = time.perf_counter()
            candidates[name]()
            found[name].append(1000.0 * (time.perf_counter() - begin))
        done += 1
    return {name: np.array(values) for name, values in found.items()}


def _enough(done: int, rounds: int | None, elapsed_s: float, seconds: float) -> bool:
    if rounds is not None:
        return done >= rounds
    return done >= MOST_ROUNDS or (done >= FEWEST_ROUNDS and elapsed_s >= seconds)


def paired_ratio(ours: NDArray[np.float64], base: NDArray[np.float64], seed: int = 0) -> Ratio:
    """Median over rounds of `ours / base`, with a bootstrap interval of 95 %.

    Args:
        ours: milliseconds of each round.
        base: of the same rounds.
        seed: of the bootstrap.
    """
    ratios = ours / base
    rows = np.random.default_rng(seed).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    tail = (100.0 - COVERAGE) / 2.0
    low, high = np.percentile(np.median(ratios[rows], axis=1), [tail, 100.0 - tail])
    return Ratio(median=float(np.median(ratios)), low=float(low), high=float(high))
