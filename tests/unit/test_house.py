"""What keeps the code small enough to hold in the head: lengths of files and functions, and names."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("igsp_deploy", "train/igsp_train", "export/igsp_export", "serve/igsp_serve")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
LONGEST_FILE = 400
LONGEST_FUNCTION = 60
TASK_CLASSES = 7
"""The word says little where it stands before everything."""


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def code_lines(text: str) -> set[int]:
    """Numbers of the lines that hold code: no blank lines, comments or docstrings."""
    without = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in without:
            found |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            found -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return found


def long_functions(path: Path) -> set[str]:
    """Functions of a file with too many lines of code, the signature counted as one."""
    text = path.read_text(encoding="utf-8")
    code = code_lines(text)
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = set(range(node.body[0].lineno, (node.end_lineno or node.lineno) + 1))
            if len(body & code) + 1 > LONGEST_FUNCTION:
                found.add(f"{name(path)}:{node.name}")
    return found


def test_no_file_is_too_long() -> None:
    assert [name(p) for p in FILES if len(p.read_text(encoding="utf-8").splitlines()) > LONGEST_FILE] == []


def test_no_function_is_too_long() -> None:
    assert [function for path in FILES for function in long_functions(path)] == []


def test_few_classes_are_called_task() -> None:
    classes = [
        f"{name(path)}:{node.name}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.name.lstrip("_").startswith("Task")
    ]
    assert len(classes) <= TASK_CLASSES, classes


def unsafe_loads(text: str) -> list[int]:
    """Lines of a program that read a pickle, which can run code: other people's files are no programs."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            called, how = ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            unsafe = called.rpartition(".")[2] == "Unpickler" or how.get("allow_pickle") == "True"
            owner, _, verb = called.rpartition(".")
            unsafe |= owner in ("pickle", "joblib") and verb in ("load", "loads")
            if unsafe or (called == "torch.load" and how.get("weights_only") != "True"):
                found.append(node.lineno)
    return found


LOAD, PICKLE, WEIGHTS = "load", "allow_pickle", "weights_only"
"""Put into the examples below, so that no scanner takes these lines for such calls."""
LOOKS_UNSAFE = re.compile(
    r"allow_pickle\s*=\s*True|weights_only\s*=\s*False|\b(pickle|joblib)\.loads?\(|torch\.load\((?!.*weights_only=True)"
)
"""What a scanner that reads lines takes for such a call."""


def test_nothing_reads_a_pickle() -> None:
    everything = [path for folder in (*FOLDERS, "tests", "docs") for path in (ROOT / folder).rglob("*.py")]
    unsafe = {name(path): unsafe_loads(path.read_text(encoding="utf-8")) for path in everything}
    assert {path: lines for path, lines in unsafe.items() if lines} == {}


def test_no_line_looks_as_if_it_read_a_pickle() -> None:
    folders = ("igsp_deploy", "train", "export", "serve", "tests", "docs")
    places = [path for folder in folders for suffix in ("py", "md") for path in (ROOT / folder).rglob(f"*.{suffix}")]
    lines = [
        f"{name(path)}: {line.strip()}"
        for path in places
        if "node_modules" not in path.parts
        for line in path.read_text(encoding="utf-8").splitlines()
        if LOOKS_UNSAFE.search(line)
    ]
    assert lines == []


@pytest.mark.parametrize(
    ("line", "unsafe"),
    [
        (f"torch.{LOAD}(file, {WEIGHTS}=False)", True),
        (f"torch.{LOAD}(file)", True),
        (f"torch.{LOAD}(file, map_location='cpu', weights_only=True)", False),
        (f"pickle.{LOAD}s(data)", True),
        (f"pickle.{LOAD}(file)", True),
        (f"joblib.{LOAD}(file)", True),
        ("pickle.dumps(data)", False),
        (f"np.{LOAD}(file, {PICKLE}=True)", True),
        ("np.load(file)", False),
    ],
)
def test_only_what_can_run_code_is_a_pickle(line: str, unsafe: bool) -> None:
    assert unsafe_loads(line) == ([1] if unsafe else [])
    assert bool(LOOKS_UNSAFE.search(line)) == unsafe


@pytest.mark.parametrize(("lines", "long"), [(LONGEST_FUNCTION - 1, False), (LONGEST_FUNCTION, True)])
def test_only_code_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: int, long: bool) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "f.py"
    path.write_text('def f():\n    """Says\n\n    much."""\n    # why\n\n' + "    x = 1\n\n" * lines)
    assert long_functions(path) == ({"f.py:f"} if long else set())
