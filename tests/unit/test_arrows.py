"""Who may import whom: the parts stand on igsp_deploy, and know nothing of one another."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {
    "igsp_deploy": ROOT / "igsp_deploy",
    "igsp_train": ROOT / "train" / "igsp_train",
    "igsp_export": ROOT / "export" / "igsp_export",
    "igsp_serve": ROOT / "serve" / "igsp_serve",
}
DOORS = "igsp_deploy/doors.py"
OTHERS = {package: set(SOURCES) - {package, "igsp_deploy"} for package in SOURCES}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at the top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def definitions(path: Path) -> set[str]:
    """Constants, type names and classes that a file defines at its top."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                parts = target.elts if isinstance(target, ast.Tuple) else [target]
                found |= {part.id for part in parts if isinstance(part, ast.Name)}
        elif isinstance(node, (ast.AnnAssign, ast.ClassDef)):
            found.add(node.target.id if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else "")
            found.add(node.name if isinstance(node, ast.ClassDef) else "")
    return found


def files(package: str) -> list[Path]:
    return sorted(path for path in SOURCES[package].rglob("*.py"))


@pytest.mark.parametrize("package", SOURCES)
def test_no_part_imports_another(package: str) -> None:
    wrong = {
        path.relative_to(ROOT).as_posix(): sorted(
            name for name in imports(path) if name.split(".")[0] in OTHERS[package]
        )
        for path in files(package)
    }
    if package == "igsp_deploy":
        assert wrong.pop(DOORS), "the one place that points up"
    assert {place: names for place, names in wrong.items() if names} == {}


def test_no_product_code_imports_research() -> None:
    inside = SOURCES["igsp_train"] / "research"
    commands = SOURCES["igsp_train"] / "commands"
    wrong = [
        path.relative_to(ROOT).as_posix()
        for package in SOURCES
        for path in files(package)
        if inside not in path.parents and commands not in path.parents
        if any(name.startswith("igsp_train.research") for name in imports(path))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "name", ["AUTO", "PLAIN", "SPECIAL", "Site", "Tower", "SUFFIXES", "DEFAULT_TEMPLATE", "Timings"]
)
def test_what_all_parts_speak_of_is_defined_once(name: str) -> None:
    places = [
        path.relative_to(ROOT).as_posix() for package in SOURCES for path in files(package) if name in definitions(path)
    ]
    assert len(places) == 1, places


@pytest.mark.parametrize("folder", ["igsp_deploy/runtime", "igsp_deploy/bundle", "serve/igsp_serve"])
def test_what_serves_imports_no_torch(folder: str) -> None:
    heavy = {"torch", "torchvision", "open_clip", "timm"}
    wrong = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / folder).rglob("*.py"))
        if any(name.split(".")[0] in heavy or name.startswith("igsp_deploy.model.") for name in imports(path))
    ]
    assert wrong == []
