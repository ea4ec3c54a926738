"""Sums per connection and peer are monotonic, whatever happens to the SAs below."""

from openmoat.crypto.identities import Identity
from openmoat.crypto.numbers import IdType
from openmoat.daemon.status import accounting
from openmoat.daemon.status.accounting import Accounting, Owner, Totals
from openmoat.dataplane.backend import SaCounters

PORTAL = Owner("home", Identity(IdType.FQDN, b"portal.example"))


def counters(handle: int, packets: int) -> SaCounters:
    return SaCounters(
        handle=handle,
        inbound_packets=packets,
        inbound_octets=100 * packets,
        outbound_packets=2 * packets,
        outbound_octets=200 * packets,
        drops={},
    )


def test_a_rekey_loses_no_packet_of_the_sum() -> None:
    books = Accounting()
    books.installed(1, PORTAL)
    assert books.totals([counters(1, 5)])[PORTAL].inbound_packets == 5
    books.installed(2, PORTAL)
    books.retire(counters(1, 7))
    assert books.totals([counters(2, 1)]) == {PORTAL: Totals(8, 800, 16, 1600)}


def test_counters_of_an_unowned_pair_are_ignored() -> None:
    books = Accounting()
    books.retire(counters(9, 3))
    assert books.totals([counters(9, 3)]) == {}


def test_sums_of_owners_long_gone_are_bounded() -> None:
    books = Accounting()
    for n in range(accounting.MAX_RETIRED_OWNERS + 10):
        books.installed(n, Owner(f"c{n}", PORTAL.peer))
        books.retire(counters(n, 1))
    sums = books.totals([])
    assert len(sums) == accounting.MAX_RETIRED_OWNERS
    assert Owner("c0", PORTAL.peer) not in sums
