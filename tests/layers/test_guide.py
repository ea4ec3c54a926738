"""The guide says of every option and algorithm what the code has."""

from pathlib import Path

import pytest

from openmoat.config.reference import TABLES, render, render_algorithms

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
CONFIGURATION = GUIDE / "configuration.md"
REMEDY = "write it anew: python -m openmoat.config.reference > /tmp/reference.md"


def test_every_option_is_documented_as_the_schema_says() -> None:
    assert render() in CONFIGURATION.read_text(), REMEDY


def test_every_algorithm_is_documented() -> None:
    assert render_algorithms() in CONFIGURATION.read_text(), REMEDY


@pytest.mark.parametrize("table", TABLES)
def test_every_option_has_a_sentence(table: type) -> None:
    fields = table.model_fields  # type: ignore[attr-defined]
    assert [name for name, field in fields.items() if not field.description] == []


@pytest.mark.parametrize(
    "file", sorted((GUIDE / "example").rglob("*.toml")), ids=lambda file: f"{file.parent.name}/{file.name}"
)
def test_the_examples_are_printed_in_the_guide(file: Path) -> None:
    assert file.read_text() in CONFIGURATION.read_text()
