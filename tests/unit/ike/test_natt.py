from hashlib import sha1
from ipaddress import ip_address

from openmoat.ike import natt
from openmoat.ike.wire.numbers import NotifyType
from openmoat.ike.wire.payloads import Notify
from openmoat.net import HostPort, Path

HOME, PORTAL = HostPort(ip_address("192.0.2.1"), 500), HostPort(ip_address("198.51.100.1"), 500)
OUTSIDE = HostPort(ip_address("203.0.113.1"), 40000)
SENT = Path(HOME, PORTAL)


def test_the_hash_covers_spis_address_and_port() -> None:
    octets = bytes.fromhex("0000000000000001 0000000000000002 c0000201 01f4")
    assert natt.endpoint_hash(1, 2, HOME) == sha1(octets, usedforsecurity=False).digest()
    assert natt.endpoint_hash(1, 2, HostPort(ip_address("2001:db8::1"), 500)) != natt.endpoint_hash(1, 2, HOME)


def test_unchanged_addresses_show_no_nat() -> None:
    view = natt.detect(1, 0, Path(PORTAL, HOME), natt.notifies(1, 0, SENT))
    assert view == natt.NatView(is_supported=True)
    assert not view.is_found


def test_a_changed_source_is_a_nat_before_the_peer_and_a_changed_destination_one_before_us() -> None:
    notifies = natt.notifies(1, 0, SENT)
    assert natt.detect(1, 0, Path(PORTAL, OUTSIDE), notifies) == natt.NatView(is_supported=True, peer=True)
    assert natt.detect(1, 0, Path(OUTSIDE, HOME), notifies) == natt.NatView(is_supported=True, own=True)


def test_one_of_several_source_hashes_is_enough() -> None:
    other = Notify(NotifyType.NAT_DETECTION_SOURCE_IP, bytes(20))
    view = natt.detect(1, 0, Path(PORTAL, HOME), (other, *natt.notifies(1, 0, SENT)))
    assert not view.is_found


def test_a_forced_hash_never_fits() -> None:
    assert natt.detect(1, 0, Path(PORTAL, HOME), natt.notifies(1, 0, SENT, forced=True)).peer


def test_without_hashes_nothing_is_known() -> None:
    assert natt.detect(1, 0, SENT, ()) == natt.NatView()


def test_port_500_becomes_4500_and_a_chosen_port_stays() -> None:
    assert natt.on_natt_port(SENT) == Path(HostPort(HOME.address, 4500), HostPort(PORTAL.address, 4500))
    assert natt.on_natt_port(Path(HOME, OUTSIDE)).remote == OUTSIDE
    assert natt.esp_path(SENT, udp=False) == Path(HostPort(HOME.address, 0), HostPort(PORTAL.address, 0))
