"""The code keeps its shape, and the tool that measures it sees what it is for."""

import ast
from pathlib import Path

import pytest

from layers import shape


def test_no_module_reaches_itself_through_others() -> None:
    assert {tree: rings for tree, rings in shape.all_circles().items() if rings} == {}
    assert shape.type_checking_imports() == []


def test_no_class_has_more_public_attributes_than_the_bound_without_a_reason() -> None:
    assert shape.excess([*shape.python_classes(), *shape.rust_structs()], shape.MAX_ATTRIBUTES) == []


def test_no_function_has_more_parameters_than_the_bound_without_a_reason() -> None:
    assert shape.excess([*shape.python_functions(), *shape.rust_functions()], shape.MAX_PARAMETERS) == []


def test_a_circle_is_found_and_a_chain_is_none() -> None:
    chain = {"a": frozenset({"b"}), "b": frozenset({"c"}), "c": frozenset[str]()}
    assert shape.circles(chain) == []
    assert shape.circles({**chain, "c": frozenset({"a"}), "d": frozenset({"a"})}) == [["a", "b", "c"]]


def test_an_import_for_type_checkers_is_an_arrow_too(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.b import B\n")
    (tmp_path / "b.py").write_text("from p import a\n")
    files = {"p.a": tmp_path / "a.py", "p.b": tmp_path / "b.py"}
    assert shape.circles(shape.python_graph(files)) == [["p.a", "p.b"]]


def test_attributes_are_fields_slots_and_what_methods_assign() -> None:
    [node] = ast.parse(
        "class A:\n    __slots__ = ('one', '_own')\n    two: int = 1\n    KIND: ClassVar = 3\n"
        "    def f(self):\n        self.three, self._four = 1, 2\n"
    ).body
    assert isinstance(node, ast.ClassDef)
    assert shape.attributes(node) == {"one", "two", "three"}


def test_a_rust_circle_is_found_through_groups_and_through_a_face(tmp_path: Path) -> None:
    source = tmp_path / "src"
    (source / "out").mkdir(parents=True)
    (source / "lib.rs").write_text("mod a;\nmod out;\npub use out::Packer;\n")
    (source / "a.rs").write_text("use crate::{out::{Packer, Other}};\n#[cfg(test)]\nmod tests {\n use crate::zzz;\n}\n")
    (source / "out" / "mod.rs").write_text("mod pack;\npub use pack::{Packer, Other};\n")
    (source / "out" / "pack.rs").write_text("// crate::nothing\nuse crate::a::A;\nfn f() { crate::Packer::new() }\n")
    assert shape.rust_graph(source) == {"a": {"out::pack"}, "out::pack": {"a"}}
    (source / "out" / "pack.rs").write_text("use super::Other;\n")
    assert shape.circles(shape.rust_graph(source)) == []


@pytest.mark.parametrize(
    ("rust", "count"),
    [
        ("fn f() {", 0),
        ("fn f(&self, a: u8) {", 1),
        ("fn f(py: Python<'_>, a: u8) {", 1),
        ("    pub(crate) fn f<'a, T: Into<Vec<u8>>>(\n        mut self,\n        a: HashMap<u8, u16>,\n        b: fn(u8, u8) -> u8,\n    ) {", 2),
    ],
)  # fmt: skip
def test_parameters_of_rust_are_counted(rust: str, count: int) -> None:
    match = shape.FUNCTION.search(rust)
    assert match is not None
    assert shape._rust_parameters(rust, match.end()) == count


def test_a_comment_with_a_reason_explains_an_exception() -> None:
    lines = ["x = 1", "# Many parameters: the C function has them.", "# Further.", "def f(): ..."]
    assert shape._is_explained(lines, 3)
    assert not shape._is_explained(["# Many parameters:", "def f(): ..."], 1)
    assert not shape._is_explained([*lines, "", "def g(): ..."], 5)


def test_the_tool_walks_what_there_is() -> None:
    assert len(shape.python_files()) > 150
    assert {"engine", "esp", "io", "native"} <= set(shape.crates())
    assert all(shape.rust_graph(source) for source in shape.crates().values())
