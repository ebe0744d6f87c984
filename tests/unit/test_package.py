"""The wheel holds our four packages and nothing that could collide with other people's."""

import importlib.metadata
import re
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from twine.commands.check import check

from igsp_deploy import __version__
from igsp_deploy.cli.main import EXTRAS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("wheel")
    return str(next(WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])))


@pytest.fixture(scope="module")
def wheel_names(wheel: str) -> list[str]:
    return zipfile.ZipFile(wheel).namelist()


def test_pypi_would_take_both_archives(wheel: str, tmp_path: Path) -> None:
    sdist = str(next(SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])))
    assert check([wheel, sdist], strict=True) is False, "twine found a fault"
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    assert f"igsp_deploy-{__version__}/tests/unit/test_package.py" in names


def test_one_version_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    newest = re.search(r"^## (\S+) \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest.groups() == (__version__, str(citation["date-released"]))


def test_wheel_has_exactly_our_top_level_names(wheel_names: list[str]) -> None:
    top_level = {name.split("/")[0] for name in wheel_names}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {
        "igsp_deploy",
        "igsp_train",
        "igsp_export",
        "igsp_serve",
    }


def test_wheel_has_types_presets_and_licence(wheel_names: list[str]) -> None:
    for package in ("igsp_deploy", "igsp_train", "igsp_export", "igsp_serve"):
        assert f"{package}/py.typed" in wheel_names
    folder = ROOT / "train" / "presets"
    presets = {f"igsp_train/presets/{path.relative_to(folder)}" for path in folder.rglob("*.yaml")}
    assert presets
    assert presets <= set(wheel_names)
    assert any(name.endswith("licenses/LICENSE") for name in wheel_names)


def test_wheel_has_the_embedded_backbone(wheel_names: list[str]) -> None:
    folder = ROOT / "igsp_deploy" / "backbones" / "nano"
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.relative_to(ROOT).as_posix() for path in files} <= set(wheel_names)


def test_component_folders_are_not_packages() -> None:
    for folder in ("train", "export", "serve"):
        assert not (ROOT / folder / "__init__.py").exists(), f"{folder}/__init__.py would shadow other people's names"


def test_constraints_are_plain_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    for line in lines:
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line), line


def test_each_module_that_a_command_may_miss_names_the_extra_that_declares_it() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    declared = {extra: {canonicalize_name(Requirement(line).name) for line in lines} for extra, lines in extras.items()}
    distributions = importlib.metadata.packages_distributions()
    for module, extra in EXTRAS.items():
        names = {canonicalize_name(name) for name in distributions[module]}
        names |= {canonicalize_name("onnxruntime")} if module == "onnxruntime" else set()
        assert names & declared[extra], f"the extra {extra} does not bring {module}"


def test_every_declared_extra_that_brings_modules_can_be_named() -> None:
    """Each distribution of an extra is in the table, or nothing imports it by itself (deptry: DEP002)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    unused = set(project["tool"]["deptry"]["per_rule_ignores"]["DEP002"])
    distributions = importlib.metadata.packages_distributions()
    named = {canonicalize_name(name) for module in EXTRAS for name in distributions[module]}
    for extra, lines in project["project"]["optional-dependencies"].items():
        if extra != "dev":
            names = {canonicalize_name(Requirement(line).name) for line in lines}
            assert names - named - unused - {"igsp-deploy", "onnxruntime", "onnxruntime-gpu"} == set(), extra


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_the_commands_of_developers_with_actions_of_a_major_version(path: Path) -> None:
    jobs = yaml.safe_load(path.read_text())["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    for step in steps:
        assert ("uses" in step) != ("run" in step)
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@(release/)?v\d+", step.get("uses", "a/b@v1")), step
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = [step["run"].split()[1] for step in steps if step.get("run", "").startswith("make ")]
    assert made
    assert set(made) <= targets
    for job in jobs.values():
        assert set(job.get("needs", "").split()) <= set(jobs)
        # What may write holds no code of ours: it passes on what another job made.
        assert "permissions" not in job or not any("run" in step for step in job["steps"])


def test_the_site_that_is_published_is_the_one_that_developers_build() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "pages.yml").read_text())["jobs"]
    uses = {step["uses"].partition("@")[0]: step for job in jobs.values() for step in job["steps"] if "uses" in step}
    assert {"actions/configure-pages", "actions/upload-pages-artifact", "actions/deploy-pages"} <= set(uses)
    built = yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader).get("site_dir", "site")
    assert uses["actions/upload-pages-artifact"]["with"]["path"].rstrip("/") == built
    assert jobs["publish"]["permissions"] == {"pages": "write", "id-token": "write"}
