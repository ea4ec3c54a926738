"""What the status says of a connection that is wanted and not there: since when it is missed, and a reason that holds now."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from openmoat.control.messages import ChildStatus, ConnectionState
from openmoat.control.reasons import Reason
from openmoat.crypto.identities import Identity, IdentityPattern
from openmoat.daemon.peers import Peers
from openmoat.daemon.status.overview import Facts, connection_status, state_of
from openmoat.dataplane.backend import SaCounters
from openmoat.ike.events import ChildSaUp, DownReason, IkeSaDown
from openmoat.ike.status import ConnectionStatus
from openmoat.ike.upkeep import Phase
from openmoat.model.connection import Child, Connection, Peer, Psk, Start
from openmoat.model.proposals import DEFAULT_ESP_PROPOSALS, DEFAULT_IKE_PROPOSALS
from openmoat.mtu.plan import MtuPlan
from openmoat.policy.selectors import parse_selectors
from unit.daemon.kit import HOME_A, HOME_B, child_sa, ike_up

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
    peers: Peers, phase: Phase, since: float, reason: DownReason | None
) -> tuple[ConnectionState, float, Reason | None]:
    """What the status says, when the core says this."""
    record = peers.record("office")
    if record is None:
        pytest.fail("the connection is not loaded")
    core = ConnectionStatus(
        name="office", phase=phase, since=since, reason=reason, text="", failures=1, retry_at=None, missing=("lan",)
    )
    return state_of(OFFICE, Facts(record=record, core=core, live={}, ike_sas={}, plans={}))[:3]


@pytest.mark.parametrize(
    ("phase", "state"), [(Phase.WAITING, ConnectionState.DOWN), (Phase.CONNECTING, ConnectionState.CONNECTING)]
)
def test_attempts_that_fail_one_after_the_other_do_not_make_an_outage_younger(
    phase: Phase, state: ConnectionState
) -> None:
    clock = Clock()
    peers = Peers(clock)
    peers.load(["office"], [])
    for clock.now in (200.0, 250.0, 300.0):
        peers.handle_event(IkeSaDown(1, "office", None, DownReason.PEER_SILENT))
    assert told(peers, phase, 301.0, DownReason.PEER_SILENT) == (state, 200.0, Reason.PEER_SILENT)


def test_what_was_taken_down_on_request_is_missed_from_the_new_request_on() -> None:
    clock = Clock()
    peers = Peers(clock)
    peers.load(["office"], [])
    peers.handle_event(IkeSaDown(1, "office", None, DownReason.PEER_SILENT))
    peers.handle_event(IkeSaDown(1, "office", None, DownReason.ASKED))
    assert told(peers, Phase.CONNECTING, 300.0, None) == (ConnectionState.CONNECTING, 300.0, None)


PLAN = MtuPlan(outer_size=1500, inner_room=1400)
FIRST = SaCounters(
    handle=1,
    inbound_packets=3,
    outbound_packets=10,
    outbound_sliced=4,
    inbound_marks=2,
    drops={"replayed": 1},
    deeds={"fragment-inner": 2},
)
SECOND = SaCounters(handle=2, outbound_packets=5, drops={"replayed": 2}, deeds={})


def test_counters_of_every_kind_go_on_after_a_rekey_and_are_told_once_while_it_lasts() -> None:
    peers = Peers(lambda: 7.0)
    peers.load(["office"], [])
    peers.handle_event(ike_up(1, "office"))
    old = child_sa(1, "office", HOME_A, OFFICE.children[0].local, OFFICE.children[0].remote, child="lan")
    new = replace(old, local_spi=2, replaces=1)
    for sa in (old, new):
        peers.install(sa)
        peers.handle_event(ChildSaUp(sa))
    peers.handle_event(ike_up(2, "office", replaces=1))
    record = peers.record("office")
    assert record is not None

    def children(*live: SaCounters) -> tuple[ChildStatus, ...]:
        facts = Facts(
            record=record,
            peers=tuple(peers.of("office")),
            core=None,
            live={row.handle: row for row in live},
            ike_sas={},
            plans={1: PLAN, 2: PLAN},
        )
        (peer,) = connection_status(OFFICE, facts).peers
        assert (peer.counters.inbound_packets, peer.counters.outbound_packets) == (3, 15)
        return peer.children

    during = children(FIRST, SECOND)
    assert [child.sizes is not None for child in during] == [False, True]
    peers.remove(1)
    peers.retire(FIRST)
    (after,) = children(SECOND)
    assert (after.local_spi, after.sizes, after.counters) == (during[1].local_spi, during[1].sizes, during[1].counters)
    assert after.sizes is not None
    assert (after.sizes.whole, after.sizes.sliced, after.sizes.marks) == (9, 4, 2)
    assert (after.sizes.drops, after.sizes.deeds) == ({"replayed": 3}, {"fragment-inner": 2})


def test_a_template_is_up_while_any_peer_of_it_is() -> None:
    pattern = replace(OFFICE.peer, identity=IdentityPattern.parse("*.homes.example"), addresses=())
    template = replace(OFFICE, peer=pattern, children=(replace(OFFICE.children[0], start=Start.NONE),))
    peers = Peers(lambda: 7.0)
    peers.load(["office"], [])

    def state() -> ConnectionState:
        record = peers.record("office")
        assert record is not None
        core = ConnectionStatus(
            name="office", phase=Phase.IDLE, since=5.0, reason=None, text="", failures=0, retry_at=None, missing=()
        )
        peers_of = tuple(peers.of("office"))
        return state_of(template, Facts(record=record, peers=peers_of, core=core, live={}, ike_sas={}, plans={}))[0]

    assert state() is ConnectionState.WAITING
    for number, peer in ((1, HOME_A), (2, HOME_B)):
        peers.handle_event(ike_up(number, "office", peer))
        sa = child_sa(number, "office", peer, template.children[0].local, template.children[0].remote, ike=number)
        peers.install(sa)
        peers.handle_event(ChildSaUp(sa))
    assert state() is ConnectionState.UP
    for number in (1, 2):
        assert peers.remove(number) is not None
    assert state() is ConnectionState.WAITING
