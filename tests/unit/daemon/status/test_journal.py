"""Events become lines for people, entries for readers, and never keep a slow reader's backlog without bound."""

import ipaddress
import logging

import pytest
from msgspec.structs import replace

from openmoat.crypto.identities import Identity
from openmoat.crypto.suites import AES_128_GCM_16, EspSuite
from openmoat.daemon.status import journal
from openmoat.daemon.status.journal import MAX_ENTRIES, Journal
from openmoat.ike.events import ChildSa, ChildSaUp, DownReason, Event, IkeSaDown, NegotiationFailed, PeerMoved
from openmoat.net import HostPort, Path
from openmoat.policy.selectors import parse_selectors

PATH = Path(HostPort(ipaddress.ip_address("192.0.2.1"), 4500), HostPort(ipaddress.ip_address("198.51.100.7"), 4500))


FAILURE = NegotiationFailed(
    at=0.0,
    ike=0,
    connection="home",
    path=PATH,
    is_initiator=False,
    exchange=34,
    notify=None,
    notify_sent=False,
    reason=DownReason.NO_COMMON_GROUND,
    text="strange",
)


def test_a_line_names_connection_sa_and_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Journal(lambda: 0.0).tell(IkeSaDown(0x1F3A90C2_00000001, "home", None, DownReason.PEER_SILENT))
    assert caplog.messages == ["IKE SA is down, peer does not answer conn=home ike=1f3a90c2"]
    assert caplog.records[0].levelno == logging.WARNING


def test_followers_get_what_comes_after_they_began() -> None:
    book = Journal(lambda: 5.0)
    book.tell(PeerMoved(1, PATH, True, ()))
    queue = book.follow()
    book.tell(PeerMoved(2, PATH, True, ()))
    entry = queue.get_nowait()
    assert entry is not None
    assert (entry.number, entry.kind, entry.at) == (2, "peer-moved", 5.0)
    assert [e.number for e in book.entries()] == [1, 2]


def test_a_reader_that_does_not_read_is_cut_off() -> None:
    book = Journal(lambda: 0.0)
    queue = book.follow()
    for _ in range(journal.MAX_FOLLOWER_BACKLOG + 5):
        book.note("test", logging.DEBUG, "x")
    assert queue.qsize() == journal.MAX_FOLLOWER_BACKLOG + 1
    drained = [queue.get_nowait() for _ in range(queue.qsize())]
    assert drained[-1] is None


def test_strangers_get_few_lines_a_minute_which_do_not_use_up_those_of_connections(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 60.0
    book = Journal(lambda: now)
    failure = replace(FAILURE, connection=None)
    for _ in range(journal.UNKNOWN_PEER_LINES_PER_MINUTE + 5):
        book.tell(failure)
    assert (len(book.entries()), book.untold) == (journal.UNKNOWN_PEER_LINES_PER_MINUTE, 5)
    book.tell(FAILURE)
    assert len(book.entries()) == journal.UNKNOWN_PEER_LINES_PER_MINUTE + 1
    now = 120.0
    book.tell(failure)
    assert len(book.entries()) == journal.UNKNOWN_PEER_LINES_PER_MINUTE + 2
    assert "left out before: 5" in book.entries()[-1].text
    book.tell(failure)
    assert "left out" not in book.entries()[-1].text


@pytest.mark.parametrize(
    ("event", "lines"),
    [(FAILURE, journal.FAILURE_LINES_PER_SECOND), (PeerMoved(1, PATH, True, ()), journal.MOVE_LINES_PER_SECOND)],
)
def test_what_a_peer_can_cause_without_end_gets_few_lines_a_second_and_then_a_count(event: Event, lines: int) -> None:
    now = 60.0
    book = Journal(lambda: now)
    for _ in range(lines + 1_000):
        book.tell(event)
    assert (len(book.entries()), book.untold) == (lines, 1_000)
    now = 61.0
    book.tell(event)
    assert len(book.entries()) == lines + 1
    assert "left out before: 1000" in book.entries()[-1].text
    now = 5.0  # the wall clock was set back
    book.tell(event)
    assert len(book.entries()) == lines + 2


def test_the_newest_entries_are_kept_up_to_the_bound() -> None:
    journal = Journal(lambda: 0.0)
    for number in range(MAX_ENTRIES):
        journal.note("test", logging.DEBUG, str(number))
    assert [entry.text for entry in journal.entries()[:2]] == ["0", "1"]
    journal.note("test", logging.DEBUG, "one more")
    kept = journal.entries()
    assert (len(kept), kept[0].text, kept[-1].text) == (MAX_ENTRIES, "1", "one more")


@pytest.mark.parametrize(
    ("aggfrag", "has_changed", "level", "words"),
    [
        (True, False, logging.INFO, "ESP in UDP, AGGFRAG"),
        (True, True, logging.INFO, "AGGFRAG; new with this rekey"),
        (False, True, logging.WARNING, "ESP in UDP; AGGFRAG has ended with this rekey"),
        (False, False, logging.INFO, "ESP in UDP"),
    ],
)
def test_a_rekey_that_ends_aggfrag_is_told_as_a_warning(
    aggfrag: bool, has_changed: bool, level: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    child = ChildSa(
        connection="home",
        child="lan",
        peer=Identity.parse("home.example"),
        ike=1,
        local_spi=0x1000,
        remote_spi=0x2000,
        suite=EspSuite(AES_128_GCM_16, None),
        local=parse_selectors(["10.2.0.0/16"]),
        remote=parse_selectors(["10.1.0.0/16"]),
        path=PATH,
        udp=True,
        keepalive=False,
        aggfrag=aggfrag,
        has_changed_mode=has_changed,
    )
    Journal(lambda: 0.0).tell(ChildSaUp(child))
    assert (caplog.records[0].levelno, caplog.messages[0].partition(" conn=")[0].endswith(words)) == (level, True)
