"""The import table of the tree: who may use whom. A new arrow is a change of this table, and reviewed as such."""

import ast
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "openmoat"
COMMON = frozenset({"errors", "net"})
EVERYTHING = frozenset({"*"})

# In order from the bottom up. A part imports only parts above it in this table, and only those named.
TABLE: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "net": frozenset(),
    "crypto": frozenset({"_native"}),
    "policy": frozenset(),
    "mtu": frozenset({"crypto"}),
    "model": frozenset({"crypto", "policy", "mtu"}),
    "ike": frozenset({"crypto", "policy", "model"}),
    "config": frozenset({"crypto", "policy", "model", "mtu"}),
    "dataplane": frozenset({"crypto", "policy", "mtu", "_native"}),
    "system": frozenset({"policy"}),
    "control": frozenset(),
    "oe": frozenset({"crypto", "policy", "model"}),
    "routing": frozenset({"policy", "model"}),
    "services": frozenset({"model"}),
    "daemon": frozenset(
        {
            "crypto",
            "policy",
            "mtu",
            "model",
            "ike",
            "config",
            "dataplane",
            "system",
            "control",
            "oe",
            "routing",
            "services",
        }
    ),
    "fleet": frozenset({"crypto", "model", "config", "control"}),
    "web": frozenset({"fleet", "control"}),
    "diag": frozenset({"policy", "model", "mtu", "config", "control"}),
    "lab": frozenset({"crypto", "policy", "mtu", "config", "dataplane", "system", "control"}),
    "cli": frozenset({"crypto", "mtu", "config", "system", "control", "diag", "lab", "fleet"}),
}
PURE = frozenset({"crypto", "policy", "mtu", "model", "ike"})
IMPURE_MODULES = frozenset({"asyncio", "socket", "time", "random", "secrets", "os", "subprocess", "threading"})
WITHOUT_ASYNCIO = frozenset({"dataplane", *PURE})
THIRD_PARTY: dict[str, frozenset[str]] = {
    "crypto": frozenset({"cryptography"}),
    "policy": frozenset(),
    "mtu": frozenset(),
    "model": frozenset(),
    "ike": frozenset(),
    "config": frozenset({"pydantic", "cryptography"}),
    "dataplane": frozenset(),
    "system": frozenset(),
    "control": frozenset({"pydantic", "httpx2"}),
}


def imported_modules(file: Path) -> set[str]:
    """Absolute dotted names of everything a file imports, wherever in the file it does so."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            assert node.module is not None
            if node.module == "openmoat":
                found.update(f"openmoat.{alias.name}" for alias in node.names)
            else:
                found.add(node.module)
    return found


def files() -> list[tuple[str, Path]]:
    rows = []
    for file in sorted(SOURCE.rglob("*.py")):
        relative = file.relative_to(SOURCE)
        part = relative.parts[0].removesuffix(".py")
        if part not in {"__init__", "__main__"}:
            rows.append((part, file))
    return rows


ROWS = files()


def test_the_table_only_points_upwards() -> None:
    order = list(TABLE)
    for part, permitted in TABLE.items():
        for other in permitted - {"_native"}:
            assert order.index(other) < order.index(part), f"{part} -> {other}"


@pytest.mark.parametrize(("part", "file"), ROWS, ids=[str(f.relative_to(SOURCE)) for _, f in ROWS])
def test_a_file_imports_only_what_its_part_may(part: str, file: Path) -> None:
    assert part in TABLE, f"{part} is not in the table of parts"
    own = {name.split(".")[1] for name in imported_modules(file) if name.startswith("openmoat.")}
    assert own - TABLE[part] - COMMON - {part} - {"__version__"} == set()


@pytest.mark.parametrize(("part", "file"), ROWS, ids=[str(f.relative_to(SOURCE)) for _, f in ROWS])
def test_nothing_but_the_laboratory_reaches_an_engine_that_seals_nothing(part: str, file: Path) -> None:
    if part != "lab" and file.name != "unsealed.py":
        assert "openmoat.dataplane.unsealed" not in imported_modules(file)
        assert "unsealed" not in file.read_text()


@pytest.mark.parametrize(("part", "file"), ROWS, ids=[str(f.relative_to(SOURCE)) for _, f in ROWS])
def test_a_file_uses_only_the_libraries_of_its_part(part: str, file: Path) -> None:
    roots = {name.split(".")[0] for name in imported_modules(file)} - {"openmoat"}
    if part in PURE:
        assert roots & IMPURE_MODULES == set()
    if part in WITHOUT_ASYNCIO:
        assert "asyncio" not in roots
    if part in THIRD_PARTY:
        assert roots - set(sys.stdlib_module_names) - THIRD_PARTY[part] == set()


@pytest.mark.parametrize(("part", "file"), ROWS, ids=[str(f.relative_to(SOURCE)) for _, f in ROWS])
def test_no_assert_stands_in_the_product(part: str, file: Path) -> None:
    asserts = [node.lineno for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Assert)]
    assert asserts == [], f"{file}: python -O would remove a check"


@pytest.mark.parametrize(("part", "file"), ROWS, ids=[str(f.relative_to(SOURCE)) for _, f in ROWS])
def test_exported_names_exist_and_are_sorted(part: str, file: Path) -> None:
    tree = ast.parse(file.read_text())
    exported: list[str] | None = None
    defined: set[str] = set()
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                exported = ast.literal_eval(value)
            case ast.Assign(targets=targets):
                defined.update(t.id for t in targets if isinstance(t, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                defined.add(name)
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                defined.add(name)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                defined.update(alias.asname or alias.name for alias in names)
    if file.name == "__init__.py":
        return
    assert exported is not None, f"{file}: no __all__"
    assert set(exported) <= defined
    assert len(set(exported)) == len(exported)
