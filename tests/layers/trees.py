"""Sources, read and parsed once in a run: the walks over them are many, and parsing is most of their work."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@cache
def text(file: Path) -> str:
    return file.read_text()


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(text(file))


@cache
def nodes(file: Path) -> tuple[ast.AST, ...]:
    """Every node of a file but those that only say how a name is used; faster than `ast.walk`."""
    found: list[ast.AST] = []
    waiting: list[ast.AST] = [tree(file)]
    while waiting:
        node = waiting.pop()
        found.append(node)
        for value in vars(node).values():
            if isinstance(value, list):
                waiting.extend(item for item in value if isinstance(item, ast.AST))
            elif isinstance(value, ast.AST) and not isinstance(value, ast.expr_context):
                waiting.append(value)
    return tuple(found)
