"""A measurement as a table for people, as JSON, as markdown and as a picture."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from igsp_deploy.files import write_bytes_atomic, write_json
from igsp_export.bench.run import Bench, Measurement

COLUMNS = ("candidate", "batch", "median ms", "p10", "p90", "images/s", "ratio", "95 % interval")
PROFILE_COLUMNS = ("graph", "provider", "operator", "nodes", "ms", "%")
TOP = 10
"""Rows of the profile that a table shows."""
COLORS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#F0E442", "#999999")
"""Colours that are told apart by colour-blind people too (Okabe and Ito, "Color Universal Design", 2008)."""
MARKERS = "osD^vPX*h"


def print_bench(bench: Bench, console: Console) -> None:
    """Print everything, headed by the machine."""
    console.print(_title(bench), markup=False, highlight=False)
    console.print(bench_table(bench))
    if bench.profile:
        profile = Table(title="Nodes by time, one run of mixed tasks at the largest batch", title_justify="left")
        _fill(profile, PROFILE_COLUMNS, _profile_rows(bench), left=3)
        console.print(profile)
    for line in _below(bench):
        console.print(line, markup=False, highlight=False)


def bench_table(bench: Bench) -> Table:
    """The latencies alone, for a command that prints more."""
    table = Table(title=f"Latency; ratio to {bench.base}, paired", title_justify="left")
    _fill(table, COLUMNS, [_row(m) for m in bench.measurements], left=1)
    batches = [m.batch for m in bench.measurements]
    for row, this, following in zip(table.rows, batches, batches[1:], strict=False):
        row.end_section = this != following
    return table


def _fill(table: Table, columns: tuple[str, ...], rows: list[list[str]], left: int) -> None:
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)


def _title(bench: Bench) -> str:
    size = bench.image_size
    tasks = f"{bench.num_tasks} task{'' if bench.num_tasks == 1 else 's'}"
    return f"{bench.machine.line()}\n{bench.backbone}, {size} px, {tasks}, {bench.precision}, opset {bench.opset}"


def _row(m: Measurement) -> list[str]:
    return [
        m.candidate,
        str(m.batch),
        f"{m.median_ms:.2f}",
        f"{m.p10_ms:.2f}",
        f"{m.p90_ms:.2f}",
        f"{m.images_per_s:,.1f}",
        f"{m.ratio.median:.3f}",
        f"{m.ratio.low:.3f} to {m.ratio.high:.3f}",
    ]


def _profile_rows(bench: Bench) -> list[list[str]]:
    rows = []
    for graph in dict.fromkeys(row.graph for row in bench.profile):
        own = [row for row in bench.profile if row.graph == graph]
        for row in own[:TOP]:
            share = f"{100 * row.share:.1f}"
            rows.append([graph, row.provider, row.operator, str(row.nodes), f"{row.milliseconds:.3f}", share])
    return rows


def _below(bench: Bench) -> list[str]:
    rounds = sorted({m.rounds for m in bench.measurements})
    span = str(rounds[0]) if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}"
    lines = [f"{span} rounds a batch size, candidates interleaved; {bench.seconds:.0f} s in all"]
    if bench.profile:
        counts: dict[str, int] = {}
        for row in bench.profile:
            counts[row.provider] = counts.get(row.provider, 0) + row.nodes
        lines.append("nodes: " + ", ".join(f"{count} on {provider}" for provider, count in counts.items()))
    if bench.agreement:
        lines.append(
            "largest difference of a feature: " + ", ".join(f"{k} {v:.1e}" for k, v in bench.agreement.items())
        )
    return [*lines, *(f"note: {note}" for note in bench.notes)]


def markdown(bench: Bench) -> str:
    """The same as a markdown page."""
    parts = ["\n\n".join(_title(bench).splitlines()), f"Ratios are to {bench.base}, paired within rounds."]
    parts.append(_markdown_table(COLUMNS, [_row(m) for m in bench.measurements], left=1))
    if bench.profile:
        parts.append(_markdown_table(PROFILE_COLUMNS, _profile_rows(bench), left=3))
    parts.append("\n".join(f"* {line}" for line in _below(bench)))
    return "\n\n".join(parts) + "\n"


def _markdown_table(columns: tuple[str, ...], rows: list[list[str]], left: int) -> str:
    rule = ["---" if number < left else "---:" for number in range(len(columns))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (list(columns), rule, *rows))


def write_report(bench: Bench, folder: Path) -> None:
    """Write bench.json, bench.md and bench.png into `folder`.

    Raises:
        UserError: it cannot be written.
    """
    write_json(folder / "bench.json", bench.to_json())
    write_bytes_atomic(folder / "bench.md", markdown(bench).encode())
    write_bytes_atomic(folder / "bench.png", plot(bench))


def plot(bench: Bench) -> bytes:
    """A PNG: latency over batch size, and how each candidate compares with the base at each batch size."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    latency, ratio = figure.subplots(1, 2)
    names = list(dict.fromkeys(m.candidate for m in bench.measurements))
    batches = sorted({m.batch for m in bench.measurements})
    _plot_latency(latency, bench, names, batches)
    _plot_ratios(ratio, bench, names, batches)
    handles, labels = latency.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle(_title(bench), fontsize=9)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _style(names: list[str], name: str) -> dict[str, Any]:
    number = names.index(name) % len(COLORS)
    return {"color": COLORS[number], "marker": MARKERS[number]}


def _plot_latency(axes: Any, bench: Bench, names: list[str], batches: list[int]) -> None:
    for name in names:
        own = [m for m in bench.measurements if m.candidate == name]
        middle = [m.median_ms for m in own]
        below = [m.median_ms - m.p10_ms for m in own]
        above = [m.p90_ms - m.median_ms for m in own]
        x = [m.batch for m in own]
        axes.errorbar(
            x, middle, [below, above], label=name, capsize=2, linewidth=1.2, markersize=5, **_style(names, name)
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for which in ("major", "minor"):
        getattr(axes.yaxis, f"set_{which}_formatter")("{x:,g}")
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.set_xlabel("images a call")
    axes.set_ylabel("latency of a call, ms (median; bars 10 % to 90 %)")
    axes.set_title("Latency")
    axes.grid(True, which="both", alpha=0.25)


def _plot_ratios(axes: Any, bench: Bench, names: list[str], batches: list[int]) -> None:
    shown = [name for name in names if name != bench.base]
    thick = 0.8 / len(shown)
    for place, name in enumerate(shown):
        for m in bench.measurements:
            if m.candidate != name:
                continue
            x = batches.index(m.batch) - 0.4 + (place + 0.5) * thick
            error = [[m.ratio.median - m.ratio.low], [m.ratio.high - m.ratio.median]]
            color = COLORS[names.index(name) % len(COLORS)]
            axes.bar(x, m.ratio.median, thick * 0.92, color=color, yerr=error, ecolor="0.35", capsize=2)
            axes.annotate(
                f"{m.ratio.median:.2f}", (x, m.ratio.high), (0, 2), textcoords="offset points", ha="center", fontsize=7
            )
    axes.axhline(1.0, color="0.3", linewidth=1, linestyle="--")
    axes.set_xticks(range(len(batches)), [str(batch) for batch in batches])
    axes.set_xlabel("images a call")
    axes.set_ylabel(f"latency / latency of {bench.base}")
    axes.set_title("Ratio (median of the rounds; bars 95 % interval)")
    axes.grid(True, axis="y", alpha=0.25)


def to_text(bench: Bench) -> str:
    """The JSON that `--json` prints."""
    return json.dumps(bench.to_json(), indent=2)
