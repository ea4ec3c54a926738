"""What is written for strongSwan is what its own manual asks for."""

from openmoat_lab.peers.strongswan import SwanChild, SwanConnection, SwanEnd, render


def test_sections_are_nested_and_settings_stand_one_a_line() -> None:
    assert render({"a": "1", "b": {"c": "2"}}) == "a = 1\nb {\n  c = 2\n}\n"


def test_a_connection_names_files_only_where_it_has_some() -> None:
    end = SwanEnd(identity="a.example")
    signer = SwanEnd(identity="b.example", auth="pubkey", certificates=("b.pem", "ca.pem"))
    section = SwanConnection(local=end, remote=signer, children=(SwanChild(local="10.1.0.0/24", remote="10.2.0.0/24"),))
    text = render(section.section())
    assert 'local {\n  id = "a.example"\n  auth = psk\n}\n' in text
    assert "certs = b.pem, ca.pem" in text
