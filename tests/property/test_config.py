"""Any octets in a configuration file make a configuration or a clear error."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from openmoat.config.lines import LineIndex
from openmoat.config.toml import load
from openmoat.errors import ConfigError, Fault

WORDS = st.sampled_from(
    [
        "[daemon]\n", "[connections.a]\n", "[connections.a.peer]\n", "[connections.a.children.b]\n", "[[connections]]\n",
        "local", "remote", "identity", "psk", "key", "proposals", "start", "lifetimes", " = ", '"', "'", "{", "}", "[", "]",
        ",", "\n", "#", "1", "true", '"x.example"', '"10.0.0.0/8"', '"\\u0000"', '"""', "0x", "1979-05-27", ".", "\\",
    ]
)  # fmt: skip


def tried(octets: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "moat.toml"
        file.write_bytes(octets)
        faults: tuple[Fault, ...] = ()
        try:
            load(file)
        except ConfigError as error:
            faults = error.faults
    assert all(fault.text and "\n" not in fault.text for fault in faults)


@given(st.lists(WORDS, max_size=30).map("".join))
@settings(max_examples=300)
def test_any_words_are_a_configuration_or_a_config_error(text: str) -> None:
    tried(text.encode())


@given(st.binary(max_size=200))
def test_any_octets_are_a_configuration_or_a_config_error(octets: bytes) -> None:
    tried(octets)


@given(st.lists(WORDS, max_size=40).map("".join))
@settings(max_examples=300)
def test_the_index_of_lines_never_fails_and_stays_within_the_text(text: str) -> None:
    index = LineIndex(text)
    assert 0 <= index.line(("connections", "a", "peer", "identity")) <= text.count("\n") + 1


@given(
    st.recursive(
        st.integers() | st.text(alphabet="ab[]{}=#,", max_size=5) | st.booleans(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
        max_leaves=8,
    )
)
def test_lines_of_keys_after_any_value_are_right(value: object) -> None:
    text = f"first = {inline(value)}\n# second = 0\n\nsecond = 1\n"
    assert LineIndex(text).line(("second",)) == text.count("\n")


def inline(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{value}"'
        case list():
            return "[" + ",\n ".join(inline(member) for member in value) + "]"
        case dict():
            return (
                "{"
                + ", ".join(f"{key} = {inline(member).replace(chr(10), ' ')}" for key, member in value.items())
                + "}"
            )
        case _:
            return str(value)
