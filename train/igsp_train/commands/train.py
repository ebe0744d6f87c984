"""`igsp train`: learn tasks into a model folder."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from igsp_deploy.cli.options import Backbone, Device, Pretrained
from igsp_train.commands.tasks import parse_tasks

if TYPE_CHECKING:
    from igsp_deploy.config import RunConfig
    from igsp_train.sequence import Options

TOLD = ("val_accuracy", "val_zero_shot", "experts_new", "experts_reused", "phase1_steps", "seconds")
"""What --json tells of a learned task beside its parameters."""

EXAMPLES = """Examples:

igsp train model --task digits=data/digits --task letters=data/letters

igsp train model --backbone ViT-B-16-quickgelu --pretrained openai --task digits=data/digits

igsp train model --config run.yaml --set learn.steps=100

igsp train model --task digits=hf:ylecun/mnist --task planes='torchvision:FGVCAircraft?root=data'

igsp train model --benchmark mtil --order 1 --data-root data

igsp train model --benchmark cifar100 --splits 10 --data-root data

igsp train model --task digits=data/digits --json

igsp train model --extend digits=data/digits"""


def train(
    context: typer.Context,
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Model folder; made if it is not there, continued if it is.")
    ],
    task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SOURCE",
            help="A task to learn: a folder of images (train/CLASS and test/CLASS, or CLASS alone), a CSV or Parquet "
            "manifest, hf:NAME, or torchvision:CLASS?root=FOLDER. Repeat it for a sequence.",
        ),
    ] = None,
    extend: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SOURCE",
            help="Add images and classes that came to the source of a learned task, by its head alone: nothing else "
            "moves. Takes no --task.",
        ),
    ] = None,
    backbone: Backbone = None,
    pretrained: Pretrained = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings and tasks.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="One setting, over the file's. May be repeated.")
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            help="Learn a benchmark with its settings: mtil, or the classes of cifar100, imagenet-r or cub200 part "
            "after part. Takes no --task."
        ),
    ] = None,
    order: Annotated[int, typer.Option(help="Order of mtil: 1 or 2.")] = 1,
    splits: Annotated[
        int | None, typer.Option(min=1, help="Parts of the classes of the other benchmarks; 10 if not given.")
    ] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder that holds the benchmark's data sets.")] = None,
    shots: Annotated[int | None, typer.Option(help="Few-shot: learn from this many images a class.")] = None,
    accept_differences: Annotated[
        bool,
        typer.Option(
            "--accept-differences", help="Learn sets whose images or classes are not the published ones; not MTIL then."
        ),
    ] = False,
    num_processes: Annotated[
        int,
        typer.Option(min=1, help="Processes that learn together, one a GPU (or sharing the CPU's cores)."),
    ] = 1,
    device: Device = "auto",
    track: Annotated[
        list[str] | None,
        typer.Option(
            metavar="tensorboard|wandb|mlflow",
            help="Tell every step to a tracker too; what it writes lies in MODEL.tracking. May be repeated.",
        ),
    ] = None,
    discard: Annotated[
        bool, typer.Option("--discard", help="Drop an unfinished task of other settings, instead of refusing.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Tell every step and every learned task on stdout, one JSON object a line.")
    ] = False,
) -> None:
    """Learn tasks one after another into MODEL.

    Tasks that MODEL has already are passed over, and an interrupted task goes on from its last checkpoint: after an
    interruption give the same command again. Tasks of the file come first, then those of --task.
    """
    from igsp_deploy.checked import build
    from igsp_deploy.config import RunConfig, apply_overrides, load_yaml, named_settings
    from igsp_deploy.errors import UsageError
    from igsp_deploy.names import check_task_name
    from igsp_deploy.yaml_keys import check_unique_keys

    if extend:
        _refuse_beside_extend(context)
        _extend(model, parse_tasks(extend, "--extend"), pretrained, device)
        return
    given = parse_tasks(task or [])
    values, tasks_of_benchmark = _benchmark(benchmark, order, splits, data_root, shots, accept_differences)
    if benchmark and given:
        raise UsageError("--benchmark brings its own tasks. Leave out --task.")
    if config:
        values = _over(values, load_yaml(config))
        check_unique_keys(config)
    source = str(config) if config else "--set"
    if shots is not None:
        values = _over(values, {"data": {"shots": shots}})
    for key, value in (("backbone", backbone), ("pretrained", pretrained)):
        values = _over(values, {"model": {key: value}} if value is not None else {})
    values = apply_overrides(values, set_ or [])
    settings = build(RunConfig, values, source)
    if settings.learn.epochs and {"learn.epochs", "learn.steps"} <= set(
        named_settings(apply_overrides({}, set_ or []))
    ):
        raise UsageError("learn.epochs and learn.steps both say how long to learn: leave one of them out.")
    if benchmark and settings.tasks:
        raise UsageError(f"--benchmark brings its own tasks. Leave out those of {source}.")
    for name in settings.tasks:
        check_task_name(name)
    both = sorted(set(settings.tasks) & set(given))
    if both:
        raise UsageError(f"task {both[0]!r} is in {source} and in --task. Give it once.")
    tasks = {**tasks_of_benchmark, **settings.tasks, **given}
    if not tasks:
        raise UsageError("there is nothing to learn. Give at least one task: --task shoes=data/shoes")
    if json and num_processes > 1:
        raise UsageError("--json goes with one process. Leave out --num-processes.")

    # Last, because torch takes seconds: what is wrong with the command is said before.
    import dataclasses

    from rich.console import Console

    from igsp_train.launch import train_in_processes
    from igsp_train.ranks import ranks_of_this_process
    from igsp_train.sequence import train_sequence
    from igsp_train.tracking import check_trackers

    settings = dataclasses.replace(settings, tasks=tasks)
    options: Options = {"discard": discard, "device": device, "track": track or [], "given": named_settings(values)}
    check_trackers(track or [])
    if json:
        _learn_and_tell(model, settings, options)
        return
    if num_processes > 1:
        train_in_processes(model, settings, num_processes, options)
        print(model)
        return
    with ranks_of_this_process(device) as ranks:  # more than one under `accelerate launch`
        train_sequence(model, settings, console=Console(stderr=True), ranks=ranks, **options)
        if ranks.first:
            print(model)


def _refuse_beside_extend(context: typer.Context) -> None:
    """No option is passed over in silence."""
    from igsp_deploy.errors import UsageError

    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        used = parameter.name in ("model", "extend", "pretrained", "device")
        if not used and source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"--extend goes by what the task was learned with. Leave out {parameter.opts[0]}.")


def _extend(model: Path, sources: dict[str, str], pretrained: str | None, device: str) -> None:
    from igsp_deploy.model_path import weights_at
    from igsp_train.extend import extend_task

    with weights_at(Path(pretrained) if pretrained else None):
        for name, source in sources.items():
            extend_task(model, name, source, device=device)
    print(model)


def _learn_and_tell(model: Path, settings: "RunConfig", options: "Options") -> None:
    """Learn; on stdout `{"event": "step", ...}` after every step and `{"event": "learned", ...}` after every task.

    SIGTERM ends it at once; what was learned before stays.
    """
    import json as json_format
    import signal
    import sys

    def say(event: dict[str, Any]) -> None:
        print(json_format.dumps(event), flush=True)

    # As an exception: scratch folders are removed on the way out.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        _learn_one_by_one(model, settings, options, say)
    finally:
        signal.signal(signal.SIGTERM, before)


def _learn_one_by_one(
    model: Path, settings: "RunConfig", options: "Options", say: Callable[[dict[str, Any]], None]
) -> None:
    import dataclasses

    from igsp_train.sequence import train_sequence
    from igsp_train.steps import StepReport

    for name, source in settings.tasks.items():

        def step(report: StepReport, name: str = name) -> None:
            say({"event": "step", "task": name, **dataclasses.asdict(report)})

        one = dataclasses.replace(settings, tasks={name: source})
        folder = train_sequence(model, one, report=step, **options)
        record = next(task for task in folder.tasks if task.name == name)
        told = {key: record.metrics.get(key) for key in TOLD}
        say({"event": "learned", "task": name, "parameters": record.kept_parameters, **told})


def _benchmark(
    name: str | None,
    order: int,
    splits: int | None,
    data_root: Path | None,
    shots: int | None,
    accept_differences: bool,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings and tasks of the benchmark, if one is asked for."""
    from igsp_deploy.errors import UsageError

    if name is None:
        if data_root is not None or order != 1 or splits is not None or accept_differences:
            raise UsageError("--order, --splits, --data-root and --accept-differences belong to --benchmark.")
        return {}, {}
    if data_root is None:
        raise UsageError(f"--benchmark {name} needs --data-root, the folder that holds its data sets.")

    from igsp_deploy.config import load_yaml
    from igsp_train.preset_files import preset_path
    from igsp_train.research.benchmark import benchmark_preset, benchmark_tasks

    if name == "mtil" and splits is not None:
        raise UsageError("--splits belongs to the other benchmarks; mtil has --order.")
    if name != "mtil" and order != 1:
        raise UsageError(f"--order belongs to mtil; {name} has --splits.")
    tasks = benchmark_tasks(name, data_root, order=order, splits=splits or 10, any_counts=accept_differences)
    return load_yaml(preset_path(benchmark_preset(shots or 0))), tasks


def _over(values: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """`more` put over `values`, section by section."""
    result = dict(values)
    for key, value in more.items():
        known = result.get(key)
        result[key] = _over(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return result
