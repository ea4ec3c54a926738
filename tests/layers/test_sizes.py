"""What outgrows its bounds rots first: files of at most 600 lines, functions of at most 40, in Python and in Rust."""

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from layers import trees

ROOT = Path(__file__).parents[2]
MAX_FILE = 600
MAX_FUNCTION = 40
"""Lines of a body: a signature of many keywords and a docstring are no place where anything goes wrong."""

TREES = ("src", "lab", "tests", "rust")
HEAD = re.compile(r"(?P<indent> *)(pub(\(\w+\))? )?(const |unsafe |extern \"C\" )*fn (?P<name>\w+)")


@cache
def sources() -> list[Path]:
    """Files of the project, without what is built."""
    places = [ROOT / "src", ROOT / "tests", *(path for path in (ROOT / "rust").iterdir() if path.name != "target")]
    found = (path for place in places for ending in ("py", "pyi", "rs") for path in place.rglob(f"*.{ending}"))
    return sorted(path for path in found if "target" not in path.relative_to(ROOT).parts)


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name of each function, and lines of its body."""
    return of_rust(trees.text(path)) if path.suffix == ".rs" else of_python(trees.nodes(path))


def of_python(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, int]]:
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            told = ast.get_docstring(node, clean=False) is not None
            body = node.body[1:] if told else node.body
            yield node.name, body[-1].end_lineno - body[0].lineno + 1 if body and body[-1].end_lineno else 0


def of_rust(text: str) -> Iterator[tuple[str, int]]:
    """As rustfmt lays it out: a body ends where its brace stands below the first letter of its head."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        head = HEAD.match(line)
        if head is None:
            continue
        indent = head["indent"]
        opening = number
        while not lines[opening].endswith(("{", "}", ";")):
            opening += 1
        if lines[opening].endswith("{"):
            yield head["name"], lines.index(f"{indent}}}", opening) - opening - 1


@pytest.mark.parametrize("tree", TREES)
def test_no_file_and_no_function_outgrows_its_bound(tree: str) -> None:
    files = [path for path in sources() if path.is_relative_to(ROOT / tree)]
    long = [
        f"{path.relative_to(ROOT)}: {count} lines"
        for path in files
        if (count := len(trees.text(path).splitlines())) > MAX_FILE
    ]
    long += [
        f"{path}: {name}: {count} lines" for path in files for name, count in functions(path) if count > MAX_FUNCTION
    ]
    assert long == []


def test_the_walk_finds_bodies_of_every_kind() -> None:
    python = 'def f(\n    a,\n):\n    """Told.\n\n    More.\n    """\n    if a:\n        return 1\n    return 2\n'
    assert list(of_python(ast.walk(ast.parse(python)))) == [("f", 3)]
    rust = "impl A {\n    pub fn f(\n        &self,\n    ) -> u8 {\n        let a = {\n            1\n        };\n        a\n    }\n\n    fn g() {}\n}\n"
    assert list(of_rust(rust)) == [("f", 4)]
    assert len(sources()) > 300
