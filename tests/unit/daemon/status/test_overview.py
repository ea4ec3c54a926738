"""What the status says of a connection that is wanted and not there: since when it is missed, and a reason that holds now."""

from ipaddress import ip_address

import pytest

from openmoat.control.messages import ConnectionState
from openmoat.control.reasons import Reason
from openmoat.crypto.identities import Identity, IdentityPattern
from openmoat.daemon.status.book import Book
from openmoat.daemon.status.overview import Facts, state_of
from openmoat.ike.events import DownReason, IkeSaDown
from openmoat.ike.status import ConnectionStatus
from openmoat.ike.upkeep import Phase
from openmoat.model.connection import Child, Connection, Peer, Psk
from openmoat.model.proposals import DEFAULT_ESP_PROPOSALS, DEFAULT_IKE_PROPOSALS
from openmoat.policy.selectors import parse_selectors

OFFICE = Connection(
    name="office",
    local_identity=Identity.parse("home.example"),
    own=Psk("office"),
    peer=Peer(
        addresses=(ip_address("192.0.2.2"),), identity=IdentityPattern.parse("portal.example"), credential=Psk("office")
    ),
    children=(
        Child(
            name="lan",
            local=parse_selectors(["10.1.0.0/24"]),
            remote=parse_selectors(["10.2.0.0/16"]),
            proposals=DEFAULT_ESP_PROPOSALS,
        ),
    ),
    proposals=DEFAULT_IKE_PROPOSALS,
)


class Clock:
    """Seconds that pass when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def told(
    book: Book, phase: Phase, since: float, reason: DownReason | None
) -> tuple[ConnectionState, float, Reason | None]:
    """What the status says, when the core says this."""
    record = book.record("office")
    if record is None:
        pytest.fail("the book does not know the connection")
    core = ConnectionStatus(
        name="office", phase=phase, since=since, reason=reason, text="", failures=1, retry_at=None, missing=("lan",)
    )
    return state_of(OFFICE, Facts(record=record, core=core, totals={}, live={}, ike_sas={}, paths={}, plans={}))[:3]


@pytest.mark.parametrize(
    ("phase", "state"), [(Phase.WAITING, ConnectionState.DOWN), (Phase.CONNECTING, ConnectionState.CONNECTING)]
)
def test_attempts_that_fail_one_after_the_other_do_not_make_an_outage_younger(
    phase: Phase, state: ConnectionState
) -> None:
    clock = Clock()
    book = Book(clock)
    book.load(["office"], [])
    for clock.now in (200.0, 250.0, 300.0):
        book.hear(IkeSaDown(1, "office", None, DownReason.PEER_SILENT))
    assert told(book, phase, 301.0, DownReason.PEER_SILENT) == (state, 200.0, Reason.PEER_SILENT)


def test_what_was_taken_down_on_request_is_missed_from_the_new_request_on() -> None:
    clock = Clock()
    book = Book(clock)
    book.load(["office"], [])
    book.hear(IkeSaDown(1, "office", None, DownReason.PEER_SILENT))
    book.hear(IkeSaDown(1, "office", None, DownReason.ASKED))
    assert told(book, Phase.CONNECTING, 300.0, None) == (ConnectionState.CONNECTING, 300.0, None)
