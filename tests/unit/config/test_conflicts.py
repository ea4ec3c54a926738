"""Connections that exclude each other are told by `moat check`, at the second of them."""

from pathlib import Path

import pytest

from openmoat.config.conflicts import check
from openmoat.errors import ConfigError
from unit.config.folder import RECORD, Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.write("moat.toml", 'include = "conf.d"\n' + RECORD)
    return folder


def second(folder: Folder, text: str) -> Path:
    other = RECORD.replace("connections.home", "connections.other").replace("home.psk", "../home.psk")
    folder.write("conf.d/other.toml", other.replace("portal.example", "second.example").replace("10.1.0.0/24", text))
    return folder.path / "moat.toml"


def test_two_peers_of_the_same_networks_are_told_with_a_remedy(folder: Folder) -> None:
    with pytest.raises(ConfigError) as caught:
        check(second(folder, "10.1.0.0/16"))
    (fault,) = caught.value.faults
    assert (fault.file, fault.line) == (str(folder.path / "conf.d/other.toml"), 10)
    assert fault.path == ("connections", "other", "children", "office", "remote")
    assert 'by "home/office"' in fault.text
    assert "the same group" in fault.text


def test_other_networks_priorities_and_alternatives_are_no_conflict(folder: Folder) -> None:
    assert len(check(second(folder, "10.9.0.0/24")).connections) == 2
    assert len(check(second(folder, '10.1.0.0/24"\npriority = 5 #')).connections) == 2
    grouped = '[connections.{0}]\ngroup = "office"'
    folder.write("moat.toml", 'include = "conf.d"\n' + RECORD.replace("[connections.home]", grouped.format("home")))
    file = second(folder, "10.1.0.0/24")
    other = folder.path / "conf.d/other.toml"
    other.write_text(other.read_text().replace("[connections.other]", grouped.format("other")))
    assert len(check(file).connections) == 2


def test_a_template_is_no_alternative(folder: Folder) -> None:
    template = RECORD.replace("psk", 'group = "office"\npsk', 1).replace('"portal.example"\n', '"*.example"\n', 1)
    with pytest.raises(ConfigError, match=r'moat.toml:3: connection "home": group: not in a template'):
        check(folder.write("moat.toml", template))


def test_a_child_of_a_group_with_other_networks_is_told_with_those_that_it_should_have(folder: Folder) -> None:
    grouped = '[connections.{0}]\ngroup = "office"'
    folder.write("moat.toml", 'include = "conf.d"\n' + RECORD.replace("[connections.home]", grouped.format("home")))
    file = second(folder, "10.7.0.0/16")
    other = folder.path / "conf.d/other.toml"
    other.write_text(other.read_text().replace("[connections.other]", grouped.format("other")))
    with pytest.raises(ConfigError) as caught:
        check(file)
    (fault,) = caught.value.faults
    assert fault.path[:4] == ("connections", "other", "children", "office")
    assert 'the same as in connection "home" of group "office"' in fault.text
