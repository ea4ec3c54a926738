"""What changes of configuration need."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from openmoat.config.diff import CHILD_NEEDS, CONNECTION_NEEDS, PEER_NEEDS, Difference, Need, diff
from openmoat.config.toml import Configuration, load
from openmoat.model.connection import Child, Connection, Peer

RECORD = """
[connections.home]
psk = "home.psk"
local.identity = "home.example"
peer.identity = "portal.example"
peer.addresses = ["192.0.2.1"]
children.office = { local = "10.1.0.0/24", remote = "10.2.0.0/16" }
[connections.hut]
psk = "home.psk"
local.identity = "home.example"
peer.identity = "hut.example"
children.lan = { local = "10.1.0.0/24", remote = "10.4.0.0/16" }
"""


@pytest.fixture
def old(tmp_path: Path) -> Configuration:
    secret = tmp_path / "home.psk"
    secret.write_text("correct horse battery staple")
    secret.chmod(0o600)
    return read(tmp_path, RECORD)


def read(folder: Path, text: str) -> Configuration:
    (folder / "moat.toml").write_text(text)
    return load(folder / "moat.toml")


def changed(tmp_path: Path, old: Configuration, before: str, after: str) -> Difference:
    assert before in RECORD
    return diff(old, read(tmp_path, RECORD.replace(before, after)))


def test_nothing_changed_touches_nothing(tmp_path: Path, old: Configuration) -> None:
    assert not diff(old, read(tmp_path, RECORD + "# a comment\n"))


def test_a_connection_is_added_and_removed_alone(tmp_path: Path, old: Configuration) -> None:
    difference = changed(tmp_path, old, "[connections.hut]", "[connections.cabin]")
    assert (difference.added, difference.removed, difference.changed) == (("cabin",), ("hut",), {})


@pytest.mark.parametrize(
    ("before", "after", "need"),
    [
        ('["192.0.2.1"]', '["192.0.2.2"]', Need.LIVE),
        ('"portal.example"', '"gate.example"', Need.REESTABLISH),
        ('"home.example"\npeer.identity = "portal', '"house.example"\npeer.identity = "portal', Need.REAUTHENTICATE),
        ("peer.addresses", 'proposals = "aes256gcm16-prfsha256-x25519"\npeer.addresses', Need.REKEY),
        ("peer.addresses", "fragmentation = false\npeer.addresses", Need.REAUTHENTICATE),
        ("peer.addresses", 'lifetimes.rekey-after = "1h"\npeer.addresses', Need.LIVE),
    ],
)
def test_each_field_needs_what_its_row_says(
    tmp_path: Path, old: Configuration, before: str, after: str, need: Need
) -> None:
    difference = changed(tmp_path, old, before, after)
    assert list(difference.changed) == ["home"]
    assert difference.changed["home"].need is need
    assert difference.changed["home"].children == {}


@pytest.mark.parametrize(
    ("after", "need"),
    [
        ('remote = "10.3.0.0/16"', Need.REESTABLISH),
        ('remote = "10.2.0.0/16", path-mtu = 1400', Need.LIVE),
        ('remote = "10.2.0.0/16", mtu-policy = "rfc4301", df = "copy", mss = "off"', Need.LIVE),
        ('remote = "10.2.0.0/16", replay-window = 2048', Need.REKEY),
    ],
)
def test_a_child_changes_without_its_siblings_and_its_ike_sa(
    tmp_path: Path, old: Configuration, after: str, need: Need
) -> None:
    change = changed(tmp_path, old, 'remote = "10.2.0.0/16"', after).changed["home"]
    assert (change.need, change.children, change.most) == (Need.NOTHING, {"office": need}, need)


def test_children_come_and_go(tmp_path: Path, old: Configuration) -> None:
    change = changed(tmp_path, old, "children.office", "children.lab").changed["home"]
    assert (change.added_children, change.removed_children, change.most) == (("lab",), ("office",), Need.LIVE)


def test_another_secret_in_the_same_file_is_a_change_of_all_that_use_it(tmp_path: Path, old: Configuration) -> None:
    (tmp_path / "home.psk").write_text("another horse, another staple")
    difference = diff(old, read(tmp_path, RECORD))
    assert {name: change.need for name, change in difference.changed.items()} == {
        "home": Need.REESTABLISH,
        "hut": Need.REESTABLISH,
    }


def test_settings_are_live_or_wait_for_the_next_start(tmp_path: Path, old: Configuration) -> None:
    difference = diff(old, read(tmp_path, '[daemon]\nlog-level = "debug"\ndevice = "moat7"\n' + RECORD))
    assert (difference.live_settings, difference.restart_settings) == (("log_level",), ("device",))


@pytest.mark.parametrize(
    ("model", "needs", "apart"),
    [(Connection, CONNECTION_NEEDS, {"peer", "children"}), (Peer, PEER_NEEDS, set()), (Child, CHILD_NEEDS, set())],
)
def test_every_field_of_the_model_has_a_row(model: Any, needs: dict[str, Need], apart: set[str]) -> None:
    assert {field.name for field in fields(model)} == set(needs) | apart


def test_needs_have_words() -> None:
    assert [need.word for need in Need] == ["nothing", "live", "rekey", "reauthenticate", "re-establish"]


def test_a_difference_is_told_from_models_alone(old: Configuration) -> None:
    home = replace(old.connections["home"], retry=False)
    new = replace(old, connections={**old.connections, "home": home})
    assert diff(old, new).changed["home"].need is Need.LIVE
