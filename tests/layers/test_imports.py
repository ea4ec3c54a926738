"""The import table of the tree: who may use whom. A new arrow is a change of this table, and reviewed as such."""

import ast
import sys
from functools import cache
from pathlib import Path

from layers import trees

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "openmoat"
LAB = ROOT / "lab" / "src" / "openmoat_lab"
COMMON = frozenset({"errors", "net", "places"})
EVERYTHING = frozenset({"*"})

# In order from the bottom up. A part imports only parts above it in this table, and only those named.
TABLE: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "net": frozenset(),
    "places": frozenset(),
    "crypto": frozenset({"_native"}),
    "policy": frozenset(),
    "mtu": frozenset({"crypto"}),
    "model": frozenset({"crypto", "policy", "mtu"}),
    "ike": frozenset({"crypto", "policy", "model"}),
    # `_native` for one function that looks at ten thousand files in a call. It needs nothing of the host, as `system` does.
    "config": frozenset({"crypto", "policy", "model", "mtu", "_native"}),
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
    "cli": frozenset({"crypto", "mtu", "config", "system", "control", "diag", "fleet"}),
}
# Of the laboratory, which is a distribution of its own: what it may use of the product, which uses nothing of it. Of `cli`
# only what the commands share, of `_native` only an engine that encrypts nothing, which no product has.
LABORATORY = frozenset(
    {"_native", "crypto", "policy", "mtu", "config", "dataplane", "system", "control", "cli"},
)
OF_CLI = frozenset({"openmoat.cli.common"})
NATIVE = frozenset({"bench/unsealed.py"})
PURE = frozenset({"crypto", "policy", "mtu", "model", "ike"})
IMPURE_MODULES = frozenset({"asyncio", "socket", "time", "random", "secrets", "os", "subprocess", "threading"})
WITHOUT_ASYNCIO = frozenset({"dataplane", *PURE})
# msgspec is in pure parts for its `Struct` alone: a record in C without I/O, clock or randomness, made for each message
# and each SA ten times as fast as a frozen dataclass.
THIRD_PARTY: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "net": frozenset({"msgspec"}),
    "places": frozenset(),
    "crypto": frozenset({"cryptography", "msgspec"}),
    "policy": frozenset({"msgspec"}),
    "mtu": frozenset({"msgspec"}),
    "model": frozenset(),
    "ike": frozenset({"msgspec"}),
    "config": frozenset({"cryptography", "tomli_w"}),
    "dataplane": frozenset({"msgspec"}),
    "system": frozenset(),
    "control": frozenset({"h11", "msgspec"}),
    "daemon": frozenset({"dns", "h11", "msgspec"}),
    "cli": frozenset({"click", "msgspec"}),
}


@cache
def imported_modules(file: Path) -> frozenset[str]:
    """Absolute dotted names of everything a file imports, wherever in the file it does so."""
    found: set[str] = set()
    for node in trees.nodes(file):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            assert node.module is not None
            if node.module == "openmoat":
                found.update(f"openmoat.{alias.name}" for alias in node.names)
            else:
                found.add(node.module)
    return frozenset(found)


def own(modules: frozenset[str]) -> set[str]:
    """Parts of the product among modules."""
    return {name.split(".")[1] for name in modules if name.startswith("openmoat.")}


def files() -> list[tuple[str, Path]]:
    rows = []
    for file in sorted(SOURCE.rglob("*.py")):
        relative = file.relative_to(SOURCE)
        part = relative.parts[0].removesuffix(".py")
        if part not in {"__init__", "__main__"}:
            rows.append((part, file))
    return rows


ROWS = files()
LAB_FILES = sorted(LAB.rglob("*.py"))
ALL = [("", file) for file in LAB_FILES] + ROWS


def test_the_table_only_points_upwards() -> None:
    order = list(TABLE)
    for part, permitted in TABLE.items():
        for other in permitted - {"_native"}:
            assert order.index(other) < order.index(part), f"{part} -> {other}"


def test_a_file_imports_only_what_its_part_may() -> None:
    wrong = {}
    for part, file in ROWS:
        assert part in TABLE, f"{part} is not in the table of parts"
        wrong[file] = own(imported_modules(file)) - TABLE[part] - COMMON - {part} - {"__version__"}
    assert {file: parts for file, parts in wrong.items() if parts} == {}


def test_the_laboratory_imports_only_what_it_may() -> None:
    for file in LAB_FILES:
        modules = imported_modules(file)
        assert own(modules) - LABORATORY - COMMON - {"__version__"} == set(), file
        assert {name for name in modules if name.startswith("openmoat.cli")} - OF_CLI == set(), file
        assert "_native" not in own(modules) or str(file.relative_to(LAB)) in NATIVE, file


def test_the_product_imports_nothing_of_the_laboratory() -> None:
    for _, file in ROWS:
        assert {name for name in imported_modules(file) if name.split(".")[0] == "openmoat_lab"} == set(), file


def test_a_file_uses_only_the_libraries_of_its_part() -> None:
    wrong = {}
    for part, file in ROWS:
        roots = {name.split(".")[0] for name in imported_modules(file)} - {"openmoat"}
        forbidden = IMPURE_MODULES if part in PURE else frozenset[str]()
        if part in WITHOUT_ASYNCIO:
            forbidden |= {"asyncio"}
        if part in THIRD_PARTY:
            forbidden |= roots - set(sys.stdlib_module_names) - THIRD_PARTY[part]
        wrong[file] = roots & forbidden
    assert {file: libraries for file, libraries in wrong.items() if libraries} == {}


def test_no_assert_stands_in_the_product() -> None:
    asserts = [f"{file}:{node.lineno}" for _, file in ALL for node in trees.nodes(file) if isinstance(node, ast.Assert)]
    assert asserts == [], "python -O would remove a check"


def test_exported_names_exist_and_are_sorted() -> None:
    for _, file in ALL:
        if file.name != "__init__.py":
            exported, defined = names(trees.tree(file))
            assert exported is not None, f"{file}: no __all__"
            assert set(exported) <= defined, file
            assert len(set(exported)) == len(exported), file


def names(tree: ast.Module) -> tuple[list[str] | None, set[str]]:
    """What a file exports, if it says so, and what it defines."""
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
    return exported, defined
