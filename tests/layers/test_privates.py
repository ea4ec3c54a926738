"""Nothing outside a class reaches into its privates, and what holds state has a test file of its own.

What is permitted, and what is left, may only become less.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from layers import trees

ROOT = Path(__file__).parents[2]
PERMITTED = {
    # Functions beside the class that compare its boxes, as its methods do: on the way of every packet's policy.
    "src/openmoat/policy/selectors.py": 3,
}
PRIVATE = re.compile(r"_(?!_)\w*(?<!_)")
"""A name with an underscore before it and none after it, as the names that enumerations keep for themselves have."""
SUSPECT = re.compile(r"(?<!\bself)(?<!\bcls)\._[A-Za-z]")
STATEFUL = ("ike", "daemon")
MOST_UNTESTED = 6
"""Files of these parts that hold state without a test file of their own: this number only becomes smaller."""


def reaches(file: Path) -> list[str]:
    """Where a file looks at a private attribute that is none of the class in which it stands."""
    if not SUSPECT.search(trees.text(file)):
        return []
    modules = set(imported_modules(file))
    return [
        f"{node.lineno}: {ast.unparse(node)}"
        for node, own in scopes(trees.tree(file), frozenset())
        if isinstance(node, ast.Attribute)
        and PRIVATE.fullmatch(node.attr)
        and node.attr not in own
        and not (isinstance(node.value, ast.Name) and node.value.id in modules | {"self", "cls"})
        and not ast.unparse(node.value).startswith("super(")
    ]


def imported_modules(file: Path) -> Iterator[str]:
    """Names that an import binds to a module, or to a function: none begins with a capital letter."""
    for node in trees.nodes(file):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (name for a in node.names if not (name := a.asname or a.name.partition(".")[0])[0].isupper())


def scopes(node: ast.AST, own: frozenset[str]) -> Iterator[tuple[ast.AST, frozenset[str]]]:
    """Every node with the private names of the classes around it."""
    if isinstance(node, ast.ClassDef):
        own |= private_names(node)
    yield node, own
    for child in ast.iter_child_nodes(node):
        yield from scopes(child, own)


def private_names(node: ast.ClassDef) -> set[str]:
    """Names with an underscore that a class defines: methods, fields, slots, what it assigns to `self`."""
    found: set[str] = set()
    for inner in ast.walk(node):
        match inner:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                found.add(name)
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                found.add(name)
            case ast.Constant(value=str(name)):
                found.add(name)
    return {name for name in found if name.startswith("_")}


def sources() -> Iterator[Path]:
    for place in ("src", "lab", "tests"):
        yield from sorted((ROOT / place).rglob("*.py"))


def test_nothing_outside_a_class_reaches_into_its_privates() -> None:
    found = {str(file.relative_to(ROOT)): reaches(file) for file in sources()}
    assert {name: places for name, places in found.items() if len(places) > PERMITTED.get(name, 0)} == {}


def holds_state(file: Path) -> bool:
    """Whether a class of the file assigns to its own attributes after it was made."""
    for node in trees.nodes(file):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in {"__init__", "__post_init__"}:
            for inner in ast.walk(node):
                match inner:
                    case ast.Attribute(value=ast.Name(id="self"), ctx=ast.Store()):
                        return True
    return False


def without_test() -> set[str]:
    """Files of state whose test file is missing: that has the same path, or the same name with its folder before it."""
    missing = set()
    for part in STATEFUL:
        for file in sorted((ROOT / "src" / "openmoat" / part).rglob("*.py")):
            name = file.relative_to(ROOT / "src" / "openmoat")
            test = ROOT / "tests" / "unit" / name.parent / f"test_{name.name}"
            if holds_state(file) and not test.exists():
                missing.add(str(name))
    return missing


def test_files_that_hold_state_have_a_test_file() -> None:
    missing = sorted(without_test())
    assert len(missing) <= MOST_UNTESTED, missing


def test_the_walk_sees_what_reaches_and_what_is_the_class_itself(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text(
        "import os\nfrom p import module, Other\n"
        "class A:\n    _kind = 1\n    def __init__(self):\n        self._x = 0\n"
        "    def f(self, other):\n        return self._y, other._x, other._kind, other._z, os._exit, super()._w\n"
        "def g(a):\n    return a._x, module._f, Other._v, Other._value_\n"
    )
    assert [place.partition(": ")[2] for place in reaches(file)] == ["other._z", "a._x", "Other._v"]
    assert not holds_state(file)
    (tmp_path / "b.py").write_text("class A:\n    def f(self):\n        self.x += 1\n")
    assert holds_state(tmp_path / "b.py")
