"""What happens to a tunnel while it lives: rekeys and deletes by either side, narrowing, fragments, a killed peer."""

import time
from collections.abc import Callable

import pytest

from openmoat.net import NATT_PORT
from openmoat_lab.captures import Packet, dissect, read
from openmoat_lab.pairs import PC_MOAT, PC_SWAN, Pair, Terms
from openmoat_lab.processes import wait_until
from openmoat_lab.traffic import numbered, ping

pytestmark = [pytest.mark.namespaces, pytest.mark.strongswan]

SKF = 53
"""Payload type of an encrypted fragment (RFC 7383 2.5)."""
NON_ESP_MARKER = bytes(4)
UDP = 17
UDP_HEADER = 8


def first_payload(packet: Packet) -> int | None:
    """Type of the first payload of an IKE message; None for any other packet."""
    if packet.protocol != UDP:
        return None
    ports = {int.from_bytes(packet.payload[n : n + 2], "big") for n in (0, 2)}
    message = packet.payload[UDP_HEADER:]
    if NATT_PORT in ports:
        if not message.startswith(NON_ESP_MARKER):
            return None
        message = message.removeprefix(NON_ESP_MARKER)
    return message[16]


def watch_a_rekey(pair: Pair, what: str, begin: Callable[[], object]) -> None:
    """Numbered packets flow while SAs of that kind are replaced; none may be missing."""
    kind = ("ike", "child").index(what)
    before = pair.swan.spis()[kind]
    with numbered(pair.lab, PC_MOAT, PC_SWAN) as stream:
        time.sleep(0.5)
        begin()
        wait_until(f"strongSwan has a new {what} SA only", lambda: is_replaced(pair.swan.spis()[kind], before), 15)
        time.sleep(1)
        results = stream.stop()
    assert [received.missing for received in results] == [0, 0]
    assert all(received.expected > 500 for received in results)


def is_replaced(now: frozenset[str], before: frozenset[str]) -> bool:
    return len(now) == 1 and now.isdisjoint(before)


@pytest.mark.parametrize("what", ["child", "ike"])
@pytest.mark.parametrize("begins", [True, False], ids=["moat-began", "strongswan-began"])
def test_a_rekey_by_strongswan_loses_no_packet(what: str, begins: bool) -> None:
    with Pair(Terms(moat_begins=begins)) as pair:
        pair.start()
        pair.wait_up()
        watch_a_rekey(pair, what, lambda: pair.swan.rekey(**{what: "moat" if what == "ike" else "net"}))


@pytest.mark.parametrize("what", ["child", "ike"])
@pytest.mark.parametrize("begins", [True, False], ids=["moat-began", "strongswan-began"])
def test_a_rekey_by_the_moat_loses_no_packet(what: str, begins: bool) -> None:
    with Pair(Terms(moat_begins=begins)) as pair:
        lifetimes = {"rekey-after": "4s", "hard": "60s", "jitter": 0.0}
        connection = pair.tables["swan"]
        (connection if what == "ike" else connection["children"]["net"])["lifetimes"] = lifetimes
        pair.start()
        pair.wait_up()
        watch_a_rekey(pair, what, lambda: None)


def test_strongswan_deletes_the_ike_sa_and_the_moat_comes_back() -> None:
    with Pair(Terms()) as pair:
        pair.start()
        pair.wait_up()
        pair.swan.terminate(ike="moat")
        pair.wait_up()


def test_strongswan_deletes_a_child_that_waits_for_it() -> None:
    with Pair(Terms(moat_begins=False)) as pair:
        pair.start()
        pair.wait_up()
        pair.swan.terminate(child="net")
        assert ping(pair.lab, PC_MOAT.host, PC_SWAN.address, count=1).received == 0
        pair.swan.initiate()
        pair.wait_up()


def test_a_connection_taken_down_is_deleted_at_strongswan_and_comes_back_when_asked() -> None:
    with Pair(Terms()) as pair:
        pair.start()
        pair.wait_up()
        pair.moat.moat("down", "swan")
        wait_until("strongSwan has no SA", lambda: "ESTABLISHED" not in pair.swan.sas())
        assert ping(pair.lab, PC_SWAN.host, PC_MOAT.address, count=1).received == 0
        pair.moat.moat("up", "swan")
        pair.wait_up()


def test_a_stopped_moat_deletes_its_sas() -> None:
    with Pair(Terms()) as pair:
        pair.start()
        pair.wait_up()
        assert pair.moat.stop() == 0
        wait_until("strongSwan has no SA", lambda: "ESTABLISHED" not in pair.swan.sas(), 5)


@pytest.mark.slow
def test_traffic_flows_again_within_a_minute_of_a_killed_strongswan() -> None:
    with Pair(Terms()) as pair:
        pair.start()
        pair.wait_up()
        pair.swan.kill()
        pair.swan.start()
        # Default settings, no command: the traffic itself is what shows the moat that nobody answers.
        assert pair.wait_up(60) < 60


def test_a_moat_killed_and_started_again_takes_over_its_connection() -> None:
    with Pair(Terms()) as pair:
        pair.start()
        pair.wait_up()
        pair.moat.kill()
        pair.moat.start()
        pair.wait_up()
        assert pair.swan.sas().count("ESTABLISHED") == 1


@pytest.mark.parametrize("begins", [True, False], ids=["moat-begins", "strongswan-begins"])
def test_both_narrow_to_what_both_want(begins: bool) -> None:
    with Pair(Terms(moat_begins=begins)) as pair:
        pair.tables["swan"]["children"]["net"]["remote"] = ["10.2.0.0/16"]
        pair.start()
        pair.wait_up()
        pair.ping()
        assert "local  10.2.0.0/24" in pair.swan.sas()


@pytest.mark.parametrize("begins", [True, False], ids=["moat-begins", "strongswan-begins"])
def test_a_certificate_chain_travels_in_ike_fragments_and_never_in_ip_fragments(begins: bool) -> None:
    with Pair(Terms(auth="rsa", chain=2, moat_begins=begins)) as pair:
        capture = pair.lab.capture("router", "left")
        pair.start()
        pair.wait_up()
        packets = [packet for frame in read(capture.stop()) if (packet := dissect(frame.octets[14:])) is not None]
        in_fragments = [
            number for number, one in enumerate(packets) if one.fragment is None and first_payload(one) == SKF
        ]
        # After it an IP datagram is fragmented on purpose, to see if the path carries that.
        exchange = packets[: max(in_fragments, default=0) + 1]
        assert not [packet for packet in exchange if packet.fragment is not None]
        senders = {str(packets[number].source) for number in in_fragments}
        assert senders == {"192.0.2.2", "198.51.100.2"}
