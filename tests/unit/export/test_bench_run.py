"""What is measured of a bundle, and what is refused."""

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from rich.console import Console

from igsp_deploy.bundle.manifest import read_manifest
from igsp_deploy.config import ModelConfig
from igsp_deploy.errors import UsageError, UserError
from igsp_deploy.names import AUTO, PLAIN
from igsp_export.bench import run as bench_run
from igsp_export.bench.graphs import torch_embed
from igsp_export.bench.report import markdown, plot
from igsp_export.bench.run import Bench, latency_table, run_bench

if TYPE_CHECKING:
    from tests.conftest import Bundled, MakeModel


@pytest.fixture(scope="module")
def measured(bundled: "Bundled") -> Bench:
    return run_bench(bundled.bundle, bundled.model, batches=(3, 1), rounds=3, threads=1, profile=True)


def test_with_the_model_everything_is_compared_with_plain_clip_alone(measured: Bench) -> None:
    expected = {
        "plain CLIP alone",
        "plain CLIP in the graph",
        "one named task",
        "mixed tasks",
        "task chosen",
        "open_clip, plain CLIP",
        "PyTorch, named task",
        "PyTorch, mixed tasks",
    }
    assert measured.base == "plain CLIP alone"
    for batch in (1, 3):
        assert {m.candidate for m in measured.measurements if m.batch == batch} == expected
    assert [m.batch for m in measured.measurements] == [1] * 8 + [3] * 8


def test_figures_of_a_candidate_fit_together(measured: Bench) -> None:
    for m in measured.measurements:
        assert m.rounds == 3
        assert 0 < m.p10_ms <= m.median_ms <= m.p90_ms
        assert m.images_per_s == pytest.approx(1000 * m.batch / m.median_ms)
        assert m.ratio.low <= m.ratio.median <= m.ratio.high
        if m.candidate == measured.base:
            assert (m.ratio.low, m.ratio.median, m.ratio.high) == (1.0, 1.0, 1.0)


def test_candidates_that_must_agree_were_compared(measured: Bench) -> None:
    assert set(measured.agreement) == {
        "plain CLIP in the graph / plain CLIP alone",
        "plain CLIP in the graph / open_clip, plain CLIP",
        "one named task / PyTorch, named task",
        "mixed tasks / PyTorch, mixed tasks",
    }
    assert all(0 <= difference < 1e-4 for difference in measured.agreement.values())


def test_profile_counts_nodes_of_the_graph(measured: Bench) -> None:
    assert {row.provider for row in measured.profile} == {"CPUExecutionProvider"}
    assert sum(row.share for row in measured.profile) == pytest.approx(1.0)
    products = sum(row.nodes for row in measured.profile if row.operator in ("MatMul", "Gemm", "FusedMatMul"))
    assert products >= 6


def test_without_the_model_the_base_is_the_same_graph_and_the_report_says_so(bundled: "Bundled") -> None:
    found = run_bench(bundled.bundle, batches=(1,), rounds=2, threads=1)
    assert found.base == "plain CLIP in the graph"
    assert {m.candidate for m in found.measurements} == {
        "plain CLIP in the graph",
        "one named task",
        "mixed tasks",
        "task chosen",
    }
    assert "not measured without --model" in markdown(found)


def test_mixed_asks_for_every_task_and_never_only_the_named_one() -> None:
    asked = bench_run._asked(8, 3)
    assert set(asked["mixed tasks"].tolist()) == {0, 1, 2}
    assert set(asked["one named task"].tolist()) == {0}
    assert set(asked["task chosen"].tolist()) == {AUTO}
    assert set(asked["plain CLIP in the graph"].tolist()) == {PLAIN}
    assert bench_run._asked(1, 3)["mixed tasks"].tolist() != bench_run._asked(1, 3)["one named task"].tolist()


def test_candidates_that_differ_are_not_timed(bundled: "Bundled", monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch_embed

    def wrong(module: object) -> object:
        embed = real(module)
        return lambda images, task: embed(images, task) + np.float32(2e-3)

    monkeypatch.setattr(bench_run, "torch_embed", wrong)
    with pytest.raises(UserError, match=r"one named task and PyTorch, named task differ by 0\.002"):
        run_bench(bundled.bundle, bundled.model, batches=(1,), rounds=1, threads=1)


def test_another_models_folder_is_refused(bundled: "Bundled", make_model: "MakeModel", tmp_path: Path) -> None:
    config = ModelConfig(backbone="debug", rank=2, vision_blocks=2)
    other = make_model(tmp_path / "one", config, tasks=("colors",))
    with pytest.raises(UserError, match="it has the tasks colors, the bundle colors, stripes"):
        run_bench(bundled.bundle, other, batches=(1,), rounds=1)
    with pytest.raises(UserError, match="not a model folder"):
        run_bench(bundled.bundle, bundled.bundle, batches=(1,), rounds=1)


def test_a_model_of_another_backbone_is_refused(bundled: "Bundled", tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundled.bundle, tmp_path / "bundle"))
    manifest = read_manifest(copy)
    foreign = dataclasses.replace(manifest.backbone, weight_hash="0123456789ab" + 52 * "0")
    dataclasses.replace(manifest, backbone=foreign).write(copy)
    ours = manifest.backbone.weight_hash[:12]
    message = f"not the model this bundle was made of: its backbone has the weights {ours}, the bundle's 0123456789ab"
    with pytest.raises(UserError, match=message):
        run_bench(copy, bundled.model, batches=(1,), rounds=1)


def test_same_names_learned_anew_are_refused(bundled: "Bundled", make_model: "MakeModel", tmp_path: Path) -> None:
    other = make_model(tmp_path / "anew", ModelConfig(backbone="debug", rank=4, vision_blocks=2))
    with pytest.raises(UserError, match="learned anew"):
        run_bench(bundled.bundle, other, batches=(1,), rounds=1)


def test_damaged_or_missing_bundle_is_refused(bundled: "Bundled", tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a bundle"):
        run_bench(tmp_path / "nothing", batches=(1,), rounds=1)
    shutil.copytree(bundled.bundle, tmp_path / "cut")
    graph = tmp_path / "cut" / "image.fp32.onnx"
    graph.write_bytes(graph.read_bytes()[:-100])
    with pytest.raises(UserError, match="incomplete"):
        run_bench(tmp_path / "cut", batches=(1,), rounds=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batches": (0, 1)}, "--batch must be at least 1, got 0"),
        ({"rounds": 0}, "--rounds must be at least 1"),
        ({"seconds": 0.0}, "--seconds must be positive"),
        ({"threads": -1}, "--threads must be at least 1"),
        ({"compiled": True}, "add --model"),
    ],
)
def test_numbers_out_of_range_are_refused(bundled: "Bundled", options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run_bench(bundled.bundle, **options)  # type: ignore[arg-type]


def test_without_a_compiler_the_rest_is_measured(bundled: "Bundled", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_run, "has_compiler", lambda provider: False)
    console = Console(quiet=True)
    found = run_bench(bundled.bundle, bundled.model, batches=(1,), rounds=1, threads=1, compiled=True, console=console)
    assert any("there is no C++ compiler" in note for note in found.notes)
    assert "torch.compile, mixed" not in {m.candidate for m in found.measurements}


def test_threads_of_torch_are_as_before_afterwards(bundled: "Bundled") -> None:
    import torch

    before = torch.get_num_threads()
    found = run_bench(bundled.bundle, batches=(1,), rounds=1, threads=before + 1)
    assert torch.get_num_threads() == before
    assert found.machine.threads == before + 1


def test_latency_table_of_an_export_is_against_plain_clip_alone(bundled: "Bundled") -> None:
    found = latency_table(bundled.bundle, bundled.model, rounds=1)
    assert not isinstance(found, str)
    assert found.base == "plain CLIP alone"
    assert {m.batch for m in found.measurements} == {1}


def test_plot_is_a_png(measured: Bench) -> None:
    assert plot(measured).startswith(b"\x89PNG")
