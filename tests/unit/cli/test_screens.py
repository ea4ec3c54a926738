"""What people see: whole screens, as they are printed."""

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import convert

from openmoat.cli.screens import (
    MAX_SHOWN,
    WIDTH,
    amount,
    connection_screen,
    connections_screen,
    entry_line,
    reloaded_screen,
    span,
    status_screen,
)
from openmoat.control.messages import (
    Candidate,
    ChildStatus,
    Connections,
    ConnectionState,
    ConnectionStatus,
    Counters,
    Entry,
    Failure,
    IkeStatus,
    PeerStatus,
    Reloaded,
    Status,
)
from openmoat.control.reasons import Reason

NOW = 1_000_000_000.0


@pytest.fixture(autouse=True)
def _in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def peer(*, is_rekeying: bool = False) -> PeerStatus:
    ike = IkeStatus(
        spi="1f3a90c2d4e5f607",
        peer_spi="a1b2c3d4e5f60718",
        is_initiator=True,
        suite="aes256gcm16-prfsha256-x25519",
        path="192.0.2.10:4500 - 198.51.100.7:4500",
        behind_nat=True,
        peer_behind_nat=False,
        own_method="SIGNATURE",
        peer_method="SIGNATURE",
        since=NOW - 7800,
        rekey_at=NOW + 6000,
    )
    child = ChildStatus(
        name="lan",
        local_spi="c0ffee01",
        remote_spi="0badcafe",
        suite="aes256gcm16-esn",
        encapsulation="udp",
        aggfrag=True,
        takes_slices=not is_rekeying,
        local="10.1.0.0/24",
        remote="10.2.0.0/16",
        since=NOW - 2400,
        is_rekeying=is_rekeying,
    )
    counters = Counters(inbound_packets=812_345, inbound_octets=1_234_567_890, outbound_packets=7, outbound_octets=420)
    return PeerStatus(identity="portal.example", ike=ike, children=(child,), counters=counters)


def connection(name: str = "office", state: ConnectionState = ConnectionState.UP, **more: object) -> ConnectionStatus:
    fields: dict[str, object] = {
        "name": name,
        "state": state,
        "since": NOW - 7800,
        "local": "home.example",
        "remote": "portal.example",
        "addresses": ("portal.example",),
        "start": "auto",
        "source": "/etc/openmoat/moat.toml",
    }
    return convert({**fields, **more}, ConnectionStatus)


def failure(reason: Reason, summary: str, **more: object) -> Failure:
    fields = {"number": 1, "at": NOW - 12, "peer": "198.51.100.7:500", "reason": reason, "summary": summary}
    return convert({**fields, **more}, Failure)


UP = connection(peers=(peer(),))
REKEYING = connection(state=ConnectionState.REKEYING, peers=(peer(is_rekeying=True),))
SILENT = connection(
    state=ConnectionState.DOWN,
    since=NOW - 300,
    reason=Reason.PEER_SILENT,
    text="no answer to IKE_SA_INIT after 6 attempts",
    retry_at=NOW + 9,
    failure=failure(Reason.PEER_SILENT, "no answer to IKE_SA_INIT after 6 attempts"),
)
REFUSED = connection(
    state=ConnectionState.DOWN,
    since=NOW - 60,
    reason=Reason.NO_COMMON_GROUND,
    text="the peer answered NO_PROPOSAL_CHOSEN",
    retry_at=NOW + 100,
    failure=failure(
        Reason.NO_COMMON_GROUND,
        "the peer answered NO_PROPOSAL_CHOSEN to IKE_SA_INIT",
        received=("proposal 1: aes128-sha256-prfsha256-modp2048",),
        candidates=(Candidate(connection="office", field="key exchange", ours="x25519, ecp256", received="modp2048"),),
        advice="let both ends propose one algorithm of each kind in common",
    ),
)
WRONG_KEY = connection(
    state=ConnectionState.DOWN,
    since=NOW - 60,
    reason=Reason.AUTHENTICATION_FAILED,
    text="the signature does not fit the key of portal.example",
    failure=failure(
        Reason.AUTHENTICATION_FAILED,
        "the signature does not fit the key of portal.example",
        received=("identity portal.example",),
        advice="compare moat keys show at the portal with peer.key here",
    ),
)
NO_ROUTE = connection(
    state=ConnectionState.DOWN,
    since=NOW - 60,
    reason=Reason.NO_ROUTE,
    text="portal.example: no such name",
    retry_at=NOW + 1,
)
STOPPED = connection(state=ConnectionState.STOPPED, reason=Reason.ASKED)
TEMPLATE = connection(
    "moats",
    ConnectionState.WAITING,
    remote="*.moats.example",
    is_template=True,
    addresses=(),
    reason=Reason.NOT_ASKED,
    peers=(peer(),),
)
SCREENS = {
    "up": (
        UP,
        """\
office: up for 2 h 10 min, since 2001-09-08 23:36:40
  we       home.example
  peer     portal.example at portal.example
  path     192.0.2.10:4500 - 198.51.100.7:4500, we are behind NAT
  IKE SA   1f3a90c2d4e5f607 - a1b2c3d4e5f60718, initiator,
           aes256gcm16-prfsha256-x25519
           we by SIGNATURE, peer by SIGNATURE; since 2001-09-08 23:36:40; rekey
           in 1 h 40 min
  child    lan: 10.1.0.0/24 = 10.2.0.0/16
           c0ffee01 - 0badcafe, ESP in UDP, aes256gcm16-esn, AGGFRAG
           for 40 min
  traffic  in 812345 packets, 1.2 GB; out 7 packets, 420 B
  file     /etc/openmoat/moat.toml""",
    ),
    "peer silent": (
        SILENT,
        """\
office: down for 5 min, since 2001-09-09 01:41:40
  why      the peer does not answer: it is off, or UDP ports 500 and 4500 are
           blocked
           no answer to IKE_SA_INIT after 6 attempts
  again    in 9 s
  next     ping ADDRESS; check the firewalls on the way
  we       home.example
  peer     portal.example at portal.example
  file     /etc/openmoat/moat.toml

last failure, 12 s ago, with 198.51.100.7:500: no answer to IKE_SA_INIT after 6
  attempts""",
    ),
    "refused": (
        REFUSED,
        """\
office: down for 1 min, since 2001-09-09 01:45:40
  why      the two ends could not agree: algorithms or networks differ
           the peer answered NO_PROPOSAL_CHOSEN
  again    in 1 min
  we       home.example
  peer     portal.example at portal.example
  file     /etc/openmoat/moat.toml

last failure, 12 s ago, with 198.51.100.7:500: the peer answered
  NO_PROPOSAL_CHOSEN to IKE_SA_INIT
  received: proposal 1: aes128-sha256-prfsha256-modp2048
  closest: office: key exchange: ours x25519, ecp256; received modp2048
  advice: let both ends propose one algorithm of each kind in common""",
    ),
    "wrong key": (
        WRONG_KEY,
        """\
office: down for 1 min, since 2001-09-09 01:45:40
  why      one end does not accept the key or identity of the other
           the signature does not fit the key of portal.example
  next     compare the keys of both ends: moat keys show FILE
  we       home.example
  peer     portal.example at portal.example
  file     /etc/openmoat/moat.toml

last failure, 12 s ago, with 198.51.100.7:500: the signature does not fit the
  key of portal.example
  received: identity portal.example
  advice: compare moat keys show at the portal with peer.key here""",
    ),
    "no route": (
        NO_ROUTE,
        """\
office: down for 1 min, since 2001-09-09 01:45:40
  why      the name of the peer does not resolve, or there is no route to it
           portal.example: no such name
  again    in 1 s
  next     ip route get ADDRESS; check the internet connection
  we       home.example
  peer     portal.example at portal.example
  file     /etc/openmoat/moat.toml""",
    ),
    "rekeying": (
        REKEYING,
        """\
office: rekeying for 2 h 10 min, since 2001-09-08 23:36:40
  we       home.example
  peer     portal.example at portal.example
  path     192.0.2.10:4500 - 198.51.100.7:4500, we are behind NAT
  IKE SA   1f3a90c2d4e5f607 - a1b2c3d4e5f60718, initiator,
           aes256gcm16-prfsha256-x25519
           we by SIGNATURE, peer by SIGNATURE; since 2001-09-08 23:36:40; rekey
           in 1 h 40 min
  child    lan: 10.1.0.0/24 = 10.2.0.0/16
           c0ffee01 - 0badcafe, ESP in UDP, aes256gcm16-esn, AGGFRAG without
           slices
           for 40 min, being rekeyed
  traffic  in 812345 packets, 1.2 GB; out 7 packets, 420 B
  file     /etc/openmoat/moat.toml""",
    ),
    "stopped": (
        STOPPED,
        """\
office: stopped for 2 h 10 min, since 2001-09-08 23:36:40
  why      taken down on request
  next     moat up office
  we       home.example
  peer     portal.example at portal.example
  file     /etc/openmoat/moat.toml""",
    ),
}


@pytest.mark.parametrize("name", SCREENS)
def test_a_connection_is_shown_as_in_its_golden_screen(name: str) -> None:
    status, screen = SCREENS[name]
    assert connection_screen(status, NOW) == screen


WHOLE_STATUS = """\
moatd 0.1.0, running for 1 d 1 h; 3 connections: 1 up, 1 waiting, 1 down
  warning  the host's firewall drops forwarded tunnel traffic; nft add rule inet
           filter forward iifname moat0 accept
  offloads tun-uso is off: the kernel refuses it: Invalid argument

cabin: down for 5 s
  why      the name of the peer does not resolve, or there is no route to it
  next     ip route get ADDRESS; check the internet connection

moats: waiting for 2 h 10 min
  peers    1 up, matching *.moats.example

office: up for 2 h 10 min
  peer     portal.example at 198.51.100.7:4500
  lan      10.1.0.0/24 = 10.2.0.0/16
           in 812345 packets, 1.2 GB; out 7 packets, 420 B

refused unknown peers (newest first):
  198.51.100.7:500, 12 s ago: identity "x.example" is not in any connection
    closest: moats: identity: ours *.moats.example; received x.example"""


@pytest.mark.parametrize("reason", [Reason.REFUSED, Reason.PEER_MISBEHAVED])
def test_a_screen_does_not_name_the_command_that_shows_it(reason: Reason) -> None:
    down = connection(state=ConnectionState.DOWN, reason=reason)
    assert "moat status" not in connection_screen(down, NOW)


def test_the_whole_status_shows_first_what_is_not_well() -> None:
    status = Status(
        version="0.1.0",
        now=NOW,
        since=NOW - 90_000,
        configuration="/etc/openmoat/moat.toml",
        warnings=(
            "the host's firewall drops forwarded tunnel traffic; nft add rule inet filter forward iifname moat0 accept",
        ),
        offloads={"tun-tso": "on", "tun-uso": "off: the kernel refuses it: Invalid argument", "udp-gso": "on"},
        unknown_peers=(
            failure(
                Reason.AUTHENTICATION_FAILED,
                'identity "x.example" is not in any connection',
                candidates=(
                    Candidate(connection="moats", field="identity", ours="*.moats.example", received="x.example"),
                    Candidate(connection="office", field="identity", ours="portal.example", received="x.example"),
                ),
            ),
        ),
        connections=(UP, connection("cabin", ConnectionState.DOWN, since=NOW - 5, reason=Reason.NO_ROUTE), TEMPLATE),
    )
    assert status_screen(status) == WHOLE_STATUS


def test_thousands_of_connections_do_not_flood_the_screen() -> None:
    many = tuple(connection(f"m{n}", ConnectionState.UP) for n in range(1000))
    screen = status_screen(Status(version="1", now=NOW, since=NOW, configuration="x", connections=many))
    assert screen.count("\nm") == MAX_SHOWN
    assert screen.endswith(f"and {1000 - MAX_SHOWN} more: moat connections")


def test_connections_are_a_table() -> None:
    screen = connections_screen(Connections(connections=(UP, TEMPLATE)), NOW)
    assert screen.splitlines() == [
        "CONNECTION  STATE    SINCE       PEER",
        "office      up       2 h 10 min  portal.example",
        "moats       waiting  2 h 10 min  *.moats.example",
    ]


def test_a_reload_is_told_by_name() -> None:
    reloaded = Reloaded(
        added=("hut",),
        removed=("barn",),
        changed={"office": "rekey"},
        unchanged=7,
        refused={"x": "taken"},
        restart_needed=("device",),
    )
    assert reloaded_screen(reloaded).splitlines() == [
        "added: hut",
        "removed: barn",
        "changed: office (rekey)",
        "refused: x: taken",
        "waits for the next start: device",
        "unchanged: 7",
    ]


def test_an_entry_is_one_line() -> None:
    entry = Entry(number=1, at=NOW, level="warning", kind="x", text="peer is gone", fields={"conn": "office"})
    assert entry_line(entry) == "2001-09-09 01:46:40 warning: peer is gone conn=office"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (0, "0 s"), (59, "59 s"), (61, "1 min"), (3600, "1 h"), (7800, "2 h 10 min"), (90_000, "1 d 1 h")],
)
def test_a_span_has_two_units_at_most(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_960, "1.0 MB"),
        (1_234_567_890, "1.2 GB"),
        (10**18, "1000.0 PB"),
    ],
)
def test_an_amount_has_a_unit(octets: int, text: str) -> None:
    assert amount(octets) == text


@given(st.text(max_size=300), st.sampled_from(Reason), st.sampled_from(ConnectionState))
def test_no_line_is_wider_than_the_screen_and_no_peer_can_move_the_cursor(
    text: str, reason: Reason, state: ConnectionState
) -> None:
    told = failure(
        reason, text, received=(text,), candidates=(Candidate(connection="a", field=text, ours=text, received=text),)
    )
    status = connection(state=state, reason=reason, text=text, remote=text, source=text, failure=told, peers=(peer(),))
    whole = Status(
        version="1",
        now=NOW,
        since=NOW,
        configuration="x",
        warnings=(text,),
        unknown_peers=(told,),
        connections=(status,),
    )
    screens = (
        connection_screen(status, NOW),
        status_screen(whole),
        connections_screen(Connections(connections=(status,)), NOW),
    )
    for line in "\n".join(screens).split("\n"):
        assert len(line) <= WIDTH
        assert line.isprintable()
