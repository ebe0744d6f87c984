"""One picture and one table of several runs of `igsp bench` on one machine: the picture in the README.

    igsp bench bundle --model model --batch 1 --out one
    igsp bench bundle --model model --batch 8 --out eight
    python -m tests.bench.picture docs/images/bench.png one/bench.json eight/bench.json

Batch sizes may be measured at different times, each when the machine is free. The table goes to stdout.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from igsp_deploy.errors import UserError
from igsp_deploy.files import write_bytes_atomic
from igsp_export.bench.machine import Machine
from igsp_export.bench.profile import OperatorTime
from igsp_export.bench.report import markdown, plot
from igsp_export.bench.run import Bench, Measurement
from igsp_export.bench.timing import Ratio


def read_bench(path: Path) -> Bench:
    """What `igsp bench --out` wrote as bench.json.

    Raises:
        UserError: it is missing or something else.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        values["machine"] = Machine(**values["machine"])
        values["measurements"] = tuple(_measurement(row) for row in values["measurements"])
        values["profile"] = tuple(OperatorTime(**row) for row in values["profile"])
        return Bench(**{**values, "notes": tuple(values["notes"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not a bench.json of `igsp bench --out FOLDER` ({error}).") from error


def _measurement(values: dict[str, Any]) -> Measurement:
    return Measurement(**{**values, "ratio": Ratio(**values["ratio"])})


def join(runs: Sequence[Bench]) -> Bench:
    """Runs of one bundle on one machine as one, ordered by batch size.

    Raises:
        UserError: they are of different machines, bundles or settings, or have a batch size in common.
    """
    first = runs[0]
    for run in runs[1:]:
        for name in ("machine", "backbone", "image_size", "num_tasks", "precision", "opset", "base"):
            if getattr(run, name) != getattr(first, name):
                raise UserError(f"the runs differ in {name}: {getattr(first, name)} and {getattr(run, name)}.")
    sizes = [size for run in runs for size in sorted({m.batch for m in run.measurements})]
    if len(set(sizes)) < len(sizes):
        raise UserError(f"the runs share a batch size (they have {', '.join(map(str, sizes))}). Leave one away.")
    measurements = [m for run in runs for m in run.measurements]
    pairs = {pair for run in runs for pair in run.agreement}
    return replace(
        first,
        measurements=tuple(sorted(measurements, key=lambda m: m.batch)),
        agreement={p: max(run.agreement[p] for run in runs if p in run.agreement) for p in sorted(pairs)},
        profile=tuple(row for run in runs for row in run.profile),
        notes=tuple(dict.fromkeys(note for run in runs for note in run.notes)),
        seconds=sum(run.seconds for run in runs),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="PNG to write")
    parser.add_argument("runs", type=Path, nargs="+", help="bench.json of each run")
    given = parser.parse_args(arguments)
    try:
        bench = join([read_bench(path) for path in given.runs])
        write_bytes_atomic(given.out, plot(bench))
    except UserError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    print(markdown(bench))


if __name__ == "__main__":
    main()
