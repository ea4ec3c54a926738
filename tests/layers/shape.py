"""The shape of the code: circles among modules, classes with many public attributes, functions with many parameters.

`python -m tests.layers.shape` prints it; `test_shape.py` holds it. A class or function may exceed its bound only below a
comment that says why: `# Many attributes: …` or `# Many parameters: …`.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = {
    name: tree for name, tree in (("openmoat", ROOT / "src"), ("openmoat_lab", ROOT / "lab" / "src")) if tree.is_dir()
}
MAX_ATTRIBUTES = 12
"""Public attributes of a class or struct."""
MAX_PARAMETERS = 7
"""Parameters of a function, without `self` and `cls`."""
REASON = re.compile(r"(#|//) Many (?P<what>attributes|parameters): \S")

Graph = Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Size:
    """How large a class or a function is."""

    count: int
    name: str
    """file:line: name."""
    is_explained: bool
    """A comment above it says why it is larger than the bound."""


def circles(graph: Graph) -> list[list[str]]:
    """Sets of more than one module that reach one another (Tarjan), each sorted."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            members = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(members) > 1:
                found.append(sorted(members))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


# Python.


@cache
def python_files() -> dict[str, Path]:
    """Dotted name of each module of the product and the laboratory."""
    return {
        ".".join(file.relative_to(tree).with_suffix("").parts).removesuffix(".__init__"): file
        for name, tree in PYTHON.items()
        for file in sorted((tree / name).rglob("*.py"))
    }


@cache
def parsed(path: Path) -> ast.Module:
    """Each file once."""
    return ast.parse(path.read_text())


@cache
def text_of(path: Path) -> str:
    """Each file once."""
    return path.read_text()


def python_graph(files: Mapping[str, Path] | None = None) -> Graph:
    """Who imports whom, wherever in the file it does so: what is imported for types only is knowledge, too."""
    files = python_files() if files is None else files
    return {name: frozenset(_python_imports(parsed(path), files)) - {name} for name, path in files.items()}


def _python_imports(tree: ast.AST, files: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in files)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                if submodule in files:
                    yield submodule
                elif node.module in files:
                    yield node.module


def type_checking_imports() -> list[str]:
    """Imports of our own modules that only a type checker sees: they hide what a module knows."""
    return [
        f"{path.relative_to(ROOT)}:{inner.lineno}"
        for path in python_files().values()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
        if isinstance(inner, ast.ImportFrom) and (inner.module or "").split(".")[0] in PYTHON
    ]


def python_classes() -> list[Size]:
    """Every class that is no enumeration, with its number of public attributes."""
    return [
        Size(len(attributes(node)), f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}", explained)
        for path, node, explained in _definitions()
        if isinstance(node, ast.ClassDef) and not _is_enumeration(node)
    ]


def python_functions() -> list[Size]:
    """Every function with its number of parameters."""
    return [
        Size(len(_parameters(node)), f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}", explained)
        for path, node, explained in _definitions()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def attributes(node: ast.ClassDef) -> set[str]:
    """Names without an underscore that instances carry: fields, slots, what methods assign to `self`."""
    found: set[str] = set()
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            if "ClassVar" not in ast.unparse(item.annotation):
                found.add(item.target.id)
        elif isinstance(item, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == "__slots__" for t in item.targets
        ):
            found.update(
                c.value for c in ast.walk(item.value) if isinstance(c, ast.Constant) and isinstance(c.value, str)
            )
        elif isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
            found.update(
                inner.attr
                for inner in ast.walk(item)
                if isinstance(inner, ast.Attribute)
                and isinstance(inner.ctx, ast.Store)
                and isinstance(inner.value, ast.Name)
                and inner.value.id == "self"
            )
    return {name for name in found if not name.startswith("_")}


def _is_enumeration(node: ast.ClassDef) -> bool:
    return any(re.search(r"(Enum|Flag)$", ast.unparse(base)) for base in node.bases)


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    arguments = node.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return [name for name in names if name not in {"self", "cls"}]


@cache
def _definitions() -> tuple[tuple[Path, ast.AST, bool], ...]:
    found = []
    for path in python_files().values():
        lines = text_of(path).split("\n")
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                found.append((path, node, _is_explained(lines, first - 1)))
    return tuple(found)


def _is_explained(lines: list[str], first: int) -> bool:
    """Whether the comment that ends right above this line gives the reason."""
    while first > 0 and lines[first - 1].lstrip().startswith(("#", "//")):
        first -= 1
        if REASON.search(lines[first]):
            return True
    return False


# Rust.

NAMED = re.compile(r"\b(crate|super|self)((?:::\w+)+)")
USE = re.compile(r"\buse (crate|super|self)(::[^;]+);")
FUNCTION = re.compile(
    r"^\s*(?:pub(?:\([\w: ]+\))? )?(?:const |unsafe |extern \"C\" )*fn (\w+)(?:<[^(]*>)?\(", re.MULTILINE
)
STRUCT = re.compile(r"^\s*(?:pub(?:\([\w: ]+\))? )?struct (\w+)[^;{(]*\{(.*?)^\s*\}", re.MULTILINE | re.DOTALL)


def crates() -> dict[str, Path]:
    """Name and `src` of each crate."""
    return {path.parent.parent.name: path.parent for path in sorted((ROOT / "rust").glob("*/src/lib.rs"))}


def rust_modules(source: Path) -> dict[str, Path]:
    """Path of each module in its crate ("outbound::packing") to its file; tests are left out. The crate's face is ""."""
    found = {}
    for file in sorted(source.rglob("*.rs")):
        parts = list(file.relative_to(source).with_suffix("").parts)
        if parts[-1] in {"mod", "lib"}:
            parts.pop()
        if parts and (parts[-1].endswith("tests") or "tests" in parts):
            continue
        found["::".join(parts)] = file
    return found


def rust_graph(source: Path) -> Graph:
    """Which module names which; a name that a face (`mod.rs`, `lib.rs`) passes on belongs to the module that has it."""
    modules = rust_modules(source)
    texts = {name: _rust_code(path.read_text()) for name, path in modules.items()}
    faces = {name for name, path in modules.items() if path.name in {"mod.rs", "lib.rs"}}
    passed = {face: _passed_on(face, texts[face], modules) for face in faces}
    graph = {}
    for name, text in texts.items():
        if name in faces:
            continue
        named = (_owner(path, modules, passed) for path in _rust_paths(text, name))
        graph[name] = frozenset(other for other in named if other not in faces | {name})
    return graph


def _rust_code(text: str) -> str:
    """Without comments and without the tests at the end."""
    text = re.sub(r"//[^\n]*", "", text)
    return re.split(r"#\[cfg\(test\)\]\s*mod \w+ \{", text)[0]


def _rust_paths(text: str, module: str) -> Iterator[tuple[str, ...]]:
    here = tuple(module.split("::")) if module else ()
    for match in (*USE.finditer(text), *NAMED.finditer(text)):
        base = {"crate": (), "self": here, "super": here[:-1]}[match[1]]
        for tail in _spread(match[2]):
            yield (*base, *tail)


def _spread(tail: str) -> Iterator[tuple[str, ...]]:
    """The paths of `::a::{b, c::{d, e}}`."""
    head, brace, rest = tail.partition("{")
    prefix = tuple(part for part in head.split("::") if part)
    if not brace:
        yield prefix
        return
    depth, item = 0, ""
    for letter in rest[: rest.rindex("}")] + ",":
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            if item.strip():
                yield from ((*prefix, *inner) for inner in _spread("::" + item.strip()))
            item = ""
        else:
            item += letter


def _passed_on(face: str, text: str, modules: Mapping[str, Path]) -> dict[str, tuple[str, ...]]:
    """Names that a face gives out (`pub use`), to the paths they stand for."""
    here = tuple(face.split("::")) if face else ()
    found = {}
    for match in re.finditer(r"\bpub(?:\([\w: ]+\))? use ([^;]+);", text):
        for path in _spread("::" + match[1].strip()):
            head, *rest = path
            full = {"crate": (*rest,), "self": (*here, *rest), "super": (*here[:-1], *rest)}.get(head, (*here, *path))
            found[path[-1]] = full
    return found


def _owner(
    path: tuple[str, ...], modules: Mapping[str, Path], passed: Mapping[str, Mapping[str, tuple[str, ...]]]
) -> str:
    """The module that a path leads into."""
    for _ in range(8):  # faces pass names on to faces, but not for ever
        length = next(n for n in range(len(path), -1, -1) if "::".join(path[:n]) in modules)
        module, rest = "::".join(path[:length]), path[length:]
        further = passed.get(module, {}).get(rest[0]) if rest else None
        if further is None:
            return module
        path = (*further, *rest[1:])
    return module


def rust_functions() -> list[Size]:
    """Every function of the crates with its number of parameters."""
    return [
        Size(_rust_parameters(text, match.end()), f"{path.relative_to(ROOT)}: {match[1]}", explained)
        for path, text in _rust_texts()
        for match in FUNCTION.finditer(text)
        for explained in [_is_explained(text.split("\n"), text.count("\n", 0, match.start(1)))]
    ]


def rust_structs() -> list[Size]:
    """Every struct of the crates with its number of fields that others see."""
    return [
        Size(len(re.findall(r"^\s*pub\b", match[2], re.MULTILINE)), f"{path.relative_to(ROOT)}: {match[1]}", explained)
        for path, text in _rust_texts()
        for match in STRUCT.finditer(text)
        for explained in [_is_explained(text.split("\n"), text.count("\n", 0, match.start(1)))]
    ]


def _rust_texts() -> Iterator[tuple[Path, str]]:
    return ((path, text_of(path)) for source in crates().values() for path in rust_modules(source).values())


def _rust_parameters(text: str, start: int) -> int:
    depth, count, item = 0, 0, ""
    for before, letter in zip(text[start - 1 :], text[start:], strict=False):
        if letter == ")" and depth == 0:
            break
        if letter in "([{<":
            depth += 1
        elif letter in ")]}" or (letter == ">" and before != "-"):
            depth -= 1
        if letter == "," and depth == 0:
            count, item = count + _is_parameter(item), ""
        else:
            item += letter
    return count + _is_parameter(item)


def _is_parameter(item: str) -> bool:
    """Whether it is passed: `self` is the object, and a token of Python says only that the interpreter is held."""
    name, colon, kind = item.partition(":")
    return bool(colon) and not re.search(r"\bself\b", name) and not kind.strip().startswith("Python<")


# What is printed.


def all_circles() -> dict[str, list[list[str]]]:
    """Circles of each tree, by its name."""
    found = {"python": circles(python_graph())}
    found.update({f"rust/{name}": circles(rust_graph(source)) for name, source in crates().items()})
    return found


def excess(sizes: Iterable[Size], bound: int) -> list[str]:
    """Those above the bound that nobody explains."""
    return [f"{size.name}: {size.count}" for size in sizes if size.count > bound and not size.is_explained]


def main() -> int:
    """Print circles, the largest class and the longest parameter list; exit code 1 where a bound is exceeded."""
    found = all_circles()
    for tree, rings in found.items():
        print(f"{tree}: circles: {len(rings)}")
        for ring in rings:
            print("  " + ", ".join(ring))
    hidden = type_checking_imports()
    print(f"imports for type checkers only: {len(hidden)}")
    wrong = [*hidden, *(ring for rings in found.values() for ring in rings)]
    for title, sizes, bound in (
        ("public attributes", [*python_classes(), *rust_structs()], MAX_ATTRIBUTES),
        ("parameters", [*python_functions(), *rust_functions()], MAX_PARAMETERS),
    ):
        inside = max((size for size in sizes if not size.is_explained), key=lambda size: size.count)
        explained = [size for size in sizes if size.is_explained and size.count > bound]
        print(f"{title}: largest {inside.count} ({inside.name}), bound {bound}; explained exceptions: {len(explained)}")
        above = excess(sizes, bound)
        wrong += above
        for line in [*above, *(f"{size.name}: {size.count}, explained" for size in explained)]:
            print(f"  {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
