"""Which connections are tried for a peer, and how many."""

from collections import Counter

import pytest

from openmoat.crypto.identities import Identity
from openmoat.crypto.numbers import IdType
from openmoat.crypto.suites import AES_128_GCM_16, PRF_HMAC_SHA2_256, X25519, IkeSuite
from openmoat.ike.config import Count
from openmoat.ike.connections import MAX_LABELS, MAX_TRIED, Connections
from scenario.link import connection

SUITE = IkeSuite(AES_128_GCM_16, None, PRF_HMAC_SHA2_256, X25519)


def named(text: str) -> Identity:
    return Identity(IdType.FQDN, text.encode())


def tried(connections: Connections, peer: Identity) -> list[str]:
    return [row.name for row in connections.candidates(peer, None, SUITE)]


@pytest.mark.parametrize("fitting", [MAX_TRIED, MAX_TRIED + 1])
def test_a_peer_is_tried_against_so_many_connections_and_the_rest_is_counted(fitting: int) -> None:
    counts: Counter[Count] = Counter()
    connections = Connections(None, counts)
    for number in range(fitting):
        connections.put(connection("portal.example", "*.example", None, name=f"c{number}"))
    assert tried(connections, named("home.example")) == [f"c{number}" for number in range(MAX_TRIED)]
    assert counts == ({Count.CANDIDATES_LIMIT: 1} if fitting > MAX_TRIED else {})


def test_a_connection_that_does_not_fit_takes_no_place_of_one_that_does() -> None:
    counts: Counter[Count] = Counter()
    connections = Connections(None, counts)
    for number in range(MAX_TRIED):
        connections.put(connection("portal.example", "*.example", None, name=f"c{number}"))
    connections.put(connection("other.example", "*", None, name="other"))
    assert len(connections.candidates(named("home.example"), named("portal.example"), SUITE)) == MAX_TRIED
    assert not counts


@pytest.mark.parametrize("labels", [MAX_LABELS, MAX_LABELS + 1])
def test_a_suffix_is_found_by_its_last_labels_up_to_a_bound(labels: int) -> None:
    counts: Counter[Count] = Counter()
    connections = Connections(None, counts)
    suffix = ".".join(f"l{n}" for n in range(labels))
    connections.put(connection("portal.example", f"*.{suffix}", None, name="deep"))
    found = labels <= MAX_LABELS
    assert tried(connections, named(f"home.{suffix}")) == (["deep"] if found else [])
    assert counts == ({} if found else {Count.LABELS_LIMIT: 1})


def test_a_long_name_is_found_by_a_short_suffix() -> None:
    counts: Counter[Count] = Counter()
    connections = Connections(None, counts)
    connections.put(connection("portal.example", "*.example", None, name="short"))
    assert tried(connections, named("a." * MAX_LABELS + "home.example")) == ["short"]
    assert counts == {Count.LABELS_LIMIT: 1}
