"""An option is one row, and its field in the model: everything else is derived from the two."""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import pytest

from openmoat.config.diff import CHILD_NEEDS, CONNECTION_NEEDS, LIVE_SETTINGS, PEER_NEEDS
from openmoat.config.kinds import NUMBER
from openmoat.config.options import CHILD, CONNECTION, DAEMON, ENGINE, PEER, TABLES
from openmoat.config.reference import render_table
from openmoat.config.rows import AT_START, UNSET, Need, Option, Table
from openmoat.config.write import tree_of
from openmoat.errors import FieldError
from openmoat.model.connection import Child, Connection, Peer
from openmoat.model.proposals import DEFAULT_ESP_PROPOSALS
from openmoat.model.settings import EngineSettings, Settings
from openmoat.policy.selectors import parse_selectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked(Child):
    """A child with one more field."""

    mark: int = 7


ROW = Option("mark", NUMBER, Need.REKEY, "Mark of its packets.")
MARKED = Table(CHILD.header, CHILD.title, Marked, (*CHILD.rows.values(), ROW))
TREE: dict[str, object] = {"local": "10.1.0.0/24", "remote": "10.2.0.0/24"}
MORE: dict[str, Any] = {"name": "lan", "proposals": DEFAULT_ESP_PROPOSALS}


def read(tree: dict[str, object], errors: list[FieldError]) -> Marked | None:
    found = MARKED.read(tree, (), errors)
    values = {**MARKED.fields(found), "start": Child.__dataclass_fields__["start"].default}
    return MARKED.build_from(values, found, errors, name="lan")


def test_a_row_and_a_field_are_all_that_a_new_option_takes() -> None:
    errors: list[FieldError] = []
    default, set_to_9 = read(TREE, errors), read({**TREE, "mark": 9}, errors)
    assert default is not None
    assert set_to_9 is not None
    assert (default.mark, set_to_9.mark, errors) == (7, 9, [])  # reader, default
    assert MARKED.needs["mark"] is Need.REKEY  # difference
    assert "| `mark` | a number | `7` | by a rekey | Mark of its packets. |" in render_table(MARKED)  # guide
    assert "mark" not in tree_of(MARKED, default, ())  # writer
    assert tree_of(MARKED, set_to_9, ())["mark"] == 9
    read({**TREE, "mark": "x", "marc": 1}, errors)  # errors
    assert [error.path for error in errors] == [("mark",), ("marc",)]


@pytest.mark.parametrize(
    ("model", "covered"),
    [
        (Connection, {*CONNECTION_NEEDS, "peer", "children"}),
        (Peer, {*PEER_NEEDS}),
        (Child, {*CHILD_NEEDS}),
        (Settings, {row.name.replace("-", "_") for row in DAEMON.options} | {"engine"}),
        (EngineSettings, {row.name.replace("-", "_") for row in ENGINE.options}),
    ],
)
def test_every_field_has_a_row_and_every_row_a_field(model: Any, covered: set[str]) -> None:
    assert {field.name for field in fields(model)} == covered


def test_no_default_stands_twice() -> None:
    for table in TABLES:
        known = {one.name: one for one in fields(table.model)} if is_dataclass(table.model) else {}
        for row in table.options:
            field = known.get(row.name.replace("-", "_"))
            if row.default is not UNSET and row.default is not None and field is not None:
                assert field.default is not row.default, row.name


def test_settings_say_which_of_them_need_no_restart() -> None:
    assert {row.name for row in DAEMON.options if row.need is not AT_START} == {"key-log", "log-level"}
    assert {"key_log", "log_level"} == LIVE_SETTINGS
    assert all(row.need is AT_START for row in ENGINE.options)


def test_names_of_options_are_words_and_sentences_end() -> None:
    for table in (*TABLES, CONNECTION, PEER):
        for row in table.options:
            assert row.name.replace("-", "").isalpha()
            assert row.sentence.endswith(".")


def test_a_selector_is_written_as_text_and_several_as_a_list() -> None:
    kind = next(row.kind for row in CHILD.options if row.name == "local")
    assert kind.write(parse_selectors(["10.1.0.0/24"])) == "10.1.0.0/24"
    assert kind.write(parse_selectors(["10.1.0.0/24", "::/0[tcp/443]"])) == ["10.1.0.0/24", "::/0[tcp/443]"]
