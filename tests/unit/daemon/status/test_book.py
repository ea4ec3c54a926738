"""The book follows what comes up and goes, of a template with many peers as well."""

import ipaddress

from openmoat.crypto.identities import Identity
from openmoat.crypto.suites import AES_128_GCM_16, EspSuite
from openmoat.daemon.status.book import Book
from openmoat.ike.events import ChildSa, ChildSaDown, ChildSaUp, DownReason
from openmoat.net import HostPort, Path
from openmoat.policy.selectors import parse_selectors

END = HostPort(ipaddress.ip_address("192.0.2.1"), 4500)


def child(number: int, replaces: int | None = None) -> ChildSa:
    return ChildSa(
        connection="homes",
        child="net",
        peer=Identity.parse(f"n{number}.homes.example"),
        ike=number,
        local_spi=number,
        remote_spi=number,
        suite=EspSuite(AES_128_GCM_16, None),
        local=parse_selectors(["10.1.0.0/16"]),
        remote=parse_selectors([f"10.2.0.{number}"]),
        path=Path(END, END),
        udp=True,
        keepalive=False,
        replaces=replaces,
    )


def test_a_child_of_a_template_is_down_when_the_last_peer_has_lost_it() -> None:
    book = Book(lambda: 7.0)
    book.load(["homes"], [])
    record = book.record("homes")
    assert record is not None
    for one in (child(1), child(2), child(3, replaces=2)):
        book.hear(ChildSaUp(one))
    book.hear(ChildSaDown(child(2), DownReason.REKEYED))
    book.hear(ChildSaDown(child(1), DownReason.PEER_DELETED))
    book.hear(ChildSaDown(child(1), DownReason.PEER_DELETED))  # told twice, counted once
    assert (list(record.children), record.child_downs) == ([3], {})
    book.hear(ChildSaDown(child(3), DownReason.PEER_SILENT))
    assert record.child_downs["net"].reason is DownReason.PEER_SILENT
    book.hear(ChildSaUp(child(1)))
    assert record.child_downs == {}
