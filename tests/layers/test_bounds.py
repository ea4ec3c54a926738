"""Every named bound has a test that names it: one that nobody reaches may be wrong, or gone, without a sign."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from layers import trees

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "openmoat"
LAB = ROOT / "lab" / "src" / "openmoat_lab"
PARTS = sorted(path.name for path in SOURCE.iterdir() if any(path.rglob("*.py")) or path.suffix == ".py")
BOUND = re.compile(r"_?MAX_[A-Z_]+")


def bounds(place: Path) -> set[str]:
    """Names of bounds that a part assigns at the level of a module or a class."""
    files = [place] if place.suffix else place.rglob("*.py")
    return {name for file in files for name in assigned(trees.tree(file)) if BOUND.fullmatch(name)}


def assigned(body: ast.Module | ast.ClassDef) -> Iterator[str]:
    for statement in body.body:
        if isinstance(statement, ast.ClassDef):
            yield from assigned(statement)
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


@pytest.fixture(scope="module")
def words() -> frozenset[str]:
    """Every word of the tests."""
    return frozenset(word for file in (ROOT / "tests").rglob("*.py") for word in re.findall(r"\w+", trees.text(file)))


@pytest.mark.parametrize("place", [*(SOURCE / part for part in PARTS), LAB], ids=lambda place: place.name)
def test_every_bound_is_named_in_a_test(place: Path, words: frozenset[str]) -> None:
    assert sorted(bounds(place) - words) == []


def test_the_walk_finds_bounds_of_modules_and_classes_with_and_without_type() -> None:
    body = "MAX_A = 1\nMAX_B: Final = 2\nclass C:\n    _MAX_C: int = 3\ndef f():\n    MAX_D = 4\n"
    assert set(assigned(ast.parse(body))) == {"MAX_A", "MAX_B", "_MAX_C"}
    assert len(bounds(SOURCE / "ike")) > 20
