"""Words every part shares."""

import ipaddress

from openmoat.crypto.numbers import Encr
from openmoat.errors import Secret
from openmoat.net import HostPort


def test_an_unknown_number_survives_with_a_name() -> None:
    encr = Encr(999)
    assert (encr.name, int(encr), encr.is_known) == ("UNKNOWN_999", 999, False)
    assert Encr(999) == encr
    assert 999 not in Encr._value2member_map_


def test_known_numbers_are_known() -> None:
    assert Encr(20).is_known
    assert Encr(20) is Encr.AES_GCM_16


def test_an_ipv6_host_and_port_has_brackets() -> None:
    assert str(HostPort(ipaddress.ip_address("2001:db8::1"), 4500)) == "[2001:db8::1]:4500"


def test_a_secret_never_prints_itself() -> None:
    secret = Secret(b"hunter22")
    assert repr(secret) == str(secret) == f"{secret}" == "<8 secret octets>"
    assert "hunter" not in f"{secret!s} {secret!r} {[secret]}"
    assert secret == b"hunter22"
    assert secret != b"hunter23"
