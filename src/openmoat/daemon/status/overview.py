"""The replies of the control socket, made from what the daemon knows: configuration, peers and counters. Changes nothing."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from openmoat.control.messages import (
    BlackHole,
    Candidate,
    ChildSizes,
    ChildStatus,
    ConnectionState,
    ConnectionStatus,
    Counters,
    Entry,
    Failure,
    GroupStatus,
    IkeStatus,
    OutsideSize,
    PeerStatus,
)
from openmoat.control.reasons import Reason
from openmoat.daemon.host.switches import Standing
from openmoat.daemon.peers import LiveChildSa, LiveIkeSa, Peer, Record
from openmoat.daemon.status.journal import Entry as JournalEntry
from openmoat.dataplane.backend import SaCounters
from openmoat.ike.events import DownReason, NegotiationFailed
from openmoat.ike.negotiate.explain import explain
from openmoat.ike.status import ConnectionStatus as CoreStatus
from openmoat.ike.status import IkeSaStatus
from openmoat.ike.upkeep import Phase
from openmoat.model.connection import Connection, Start
from openmoat.mtu.discovery import Discovery
from openmoat.mtu.plan import MtuPlan, Rung
from openmoat.policy.selectors import format_selectors

__all__ = ["Facts", "connection_status", "entry", "failure"]

EAGERNESS = (Start.AUTO, Start.TRAP, Start.NONE)
LEVELS: Mapping[int, Literal["debug", "info", "warning", "error"]] = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What one reply needs to know of a connection besides its configuration."""

    record: Record
    peers: Sequence[Peer] = ()
    standings: Sequence[Standing] = ()
    """Where it stands in its group, child by child; empty without one."""
    core: CoreStatus | None
    """None where the core has not been given it."""
    failed: NegotiationFailed | None = None
    """What last came to nothing since something was up."""
    source: str = ""
    conflict: str = ""
    """Why its policies could not be taken in."""
    clock_offset: float = 0.0
    """Added to the core's times it makes those of the wall clock."""
    live: Mapping[int, SaCounters]
    """By inbound SPI, the counters of its pairs."""
    ike_sas: Mapping[int, IkeSaStatus]
    plans: Mapping[int, MtuPlan]
    """By inbound SPI, where sizes are wanted."""


def connection_status(connection: Connection, facts: Facts, failure: Failure | None = None) -> ConnectionStatus:
    """One connection as it is."""
    state, since, reason, text = state_of(connection, facts)
    return ConnectionStatus(
        name=connection.name,
        state=state,
        since=since,
        reason=reason,
        text=text,
        retry_at=retry_at(facts),
        is_template=connection.is_template,
        start=eagerness(connection).value,
        local=str(connection.local_identity),
        remote=str(connection.peer.identity),
        addresses=tuple(str(address) for address in connection.peer.addresses),
        group=group_status(connection, facts),
        source=facts.source,
        peers=peers(connection, facts),
        failure=failure,
    )


def group_status(connection: Connection, facts: Facts) -> GroupStatus | None:
    """Whether it carries, since when, and why."""
    if connection.group is None:
        return None
    carries = [one for one in facts.standings if one.active == connection.name]
    others = [one for one in facts.standings if one.active not in {connection.name, None}]
    told = [f"carries {one.child}{absent(one)}" for one in carries]
    told += [f'"{one.active}" carries {one.child}{absent(one)}' for one in others]
    return GroupStatus(
        name=connection.group,
        order=connection.order,
        carries=tuple(one.child for one in carries),
        since=max((one.since for one in carries if one.since is not None), default=None),
        text="; ".join(told) or "no connection of the group is up",
    )


def absent(standing: Standing) -> str:
    """The connections that would carry if they were up."""
    return f"; before it, and not available: {', '.join(standing.before)}" if standing.before else ""


def retry_at(facts: Facts) -> float | None:
    """When the next attempt begins."""
    core = facts.core
    if core is None or core.retry_at is None or core.phase is not Phase.WAITING:
        return None
    return core.retry_at + facts.clock_offset


def eagerness(connection: Connection) -> Start:
    """The most eager start of its children."""
    return min((child.start for child in connection.children), key=EAGERNESS.index)


State = tuple[ConnectionState, float, Reason | None, str]

PHASES: Mapping[Phase, ConnectionState] = {
    Phase.IDLE: ConnectionState.WAITING,
    Phase.CONNECTING: ConnectionState.CONNECTING,
    Phase.WAITING: ConnectionState.DOWN,
    Phase.FAILED: ConnectionState.DOWN,
    Phase.UP: ConnectionState.UP,
    Phase.DOWN: ConnectionState.STOPPED,
}


def state_of(connection: Connection, facts: Facts) -> State:
    """What it is now, since when, and why it is not up."""
    record, core = facts.record, facts.core
    if facts.conflict or core is None:
        return ConnectionState.DOWN, record.since, Reason.CONFLICT, facts.conflict
    state, since = PHASES[core.phase], core.since + facts.clock_offset
    if core.phase is Phase.DOWN:
        return state, since, Reason.ASKED, ""
    if connection.is_template:
        return template_state(facts, since)
    names = [live.child.child for peer in facts.peers for live in peer.children.values() if live.since is not None]
    if names:
        return up_state(facts, names)
    if state in {ConnectionState.CONNECTING, ConnectionState.DOWN} and record.missed is not None:
        since = min(since, record.missed)
    if core.reason is not None:
        return state, since, reason(core.reason), core.text
    if state is ConnectionState.WAITING and facts.failed is not None:
        return state, since, reason(facts.failed.reason), facts.failed.text
    return state, since, Reason.NOT_ASKED if state is ConnectionState.WAITING else None, ""


def template_state(facts: Facts, since: float) -> State:
    """It is up while any of its peers is."""
    here = sum(bool(peer.ike_sas) for peer in facts.peers)
    if any(facts.record.up.values()):
        return ConnectionState.UP, since, None, f"{here} peers are here"
    return ConnectionState.WAITING, facts.record.since, Reason.NOT_ASKED, f"{here} peers are here"


def up_state(facts: Facts, names: list[str]) -> State:
    """Some children are there: whether all that are wanted, and whether successors are on their way."""
    core = facts.core
    since = max(live.since or 0.0 for peer in facts.peers for live in peer.children.values())
    if core is not None and core.missing:
        why = reason(core.reason) if core.reason is not None else None
        return ConnectionState.CONNECTING, since, why, f"not there: {', '.join(map(missing(facts), core.missing))}"
    is_rekeying = len(names) > len(set(names)) or any(row.is_rekeying for row in facts.ike_sas.values())
    return (ConnectionState.REKEYING if is_rekeying else ConnectionState.UP), since, None, ""


def missing(facts: Facts) -> Callable[[str], str]:
    """Puts a child that is not there into words, with how it was lost where it was."""
    downs = facts.record.child_downs
    return lambda name: f"{name} ({downs[name].reason.value})" if name in downs else name


def peers(connection: Connection, facts: Facts) -> tuple[PeerStatus, ...]:
    """The peers that are here, and those that were and have counters."""
    return tuple(
        peer_status(connection, peer, facts) for peer in sorted(facts.peers, key=lambda peer: str(peer.identity))
    )


def peer_status(connection: Connection, peer: Peer, facts: Facts) -> PeerStatus:
    """One peer."""
    newest = next(reversed(peer.ike_sas.values()), None)
    down = peer.down
    return PeerStatus(
        identity=str(peer.identity),
        since=peer.since,
        reason=reason(down.reason) if down is not None else None,
        text=down.text if down is not None else "",
        last_in=peer.last_in,
        last_out=peer.last_out,
        ike=ike_status(newest, peer, facts) if newest is not None else None,
        children=child_statuses(connection, peer, facts),
        counters=counters(peer.sums(facts.live)),
    )


def ike_status(live: LiveIkeSa, peer: Peer, facts: Facts) -> IkeStatus:
    """One IKE SA."""
    up, search = live.up, live.search
    row = facts.ike_sas.get(up.ike)
    rekey_at = row.rekey_at if row is not None else None
    return IkeStatus(
        spi=f"{up.ike:016x}",
        peer_spi=f"{up.peer_spi:016x}",
        is_initiator=up.is_initiator,
        suite=up.suite.name,
        path=str(live.path),
        behind_nat=up.behind_nat,
        peer_behind_nat=up.peer_behind_nat,
        own_method=up.own_method.name.lower(),
        peer_method=up.peer_method.name.lower(),
        since=live.since,
        rekey_at=rekey_at + facts.clock_offset if rekey_at is not None else None,
        outside=outside_size(search.discovery, peer, facts.clock_offset) if search is not None else None,
    )


def outside_size(found: Discovery, peer: Peer, clock_offset: float) -> OutsideSize:
    """What is known of a path; what was counted on earlier paths of the peer is counted on."""
    hole = found.black_hole or peer.black_hole
    return OutsideSize(
        size=found.size,
        learned=found.learned.value,
        at=found.learned_at + clock_offset if found.learned_at is not None else None,
        phase=found.phase.value,
        probing=found.probe,
        probing_fragments=found.probes_fragments,
        fragments_pass=found.fragments_pass,
        hints=peer.hints + found.hints,
        black_hole=BlackHole(at=hole.at + clock_offset, before=hole.before, after=hole.after) if hole else None,
    )


def child_statuses(connection: Connection, peer: Peer, facts: Facts) -> tuple[ChildStatus, ...]:
    """The Child SAs of one peer that carry packets, by name, the newest of a name last."""
    up = [one for one in peer.children.values() if one.since is not None]
    rows = sorted(up, key=lambda one: (one.child.child, one.rekeyed or one.since or 0.0))
    names = [one.child.child for one in rows]
    newest = dict(zip(names, rows, strict=True))
    configured = {child.name for child in connection.children if child.path_mtu is not None}
    return tuple(
        child_status(
            one,
            peer,
            facts,
            is_newest=newest[one.child.child] is one,
            is_rekeying=names.count(one.child.child) > 1,
            is_configured=one.child.child in configured,
        )
        for one in rows
    )


def child_status(
    one: LiveChildSa, peer: Peer, facts: Facts, *, is_newest: bool, is_rekeying: bool, is_configured: bool
) -> ChildStatus:
    """One Child SA. What its child has carried is told once, with the newest."""
    child = one.child
    sums = peer.sums(facts.live, child.child) if is_newest else SaCounters(handle=0, drops={})
    return ChildStatus(
        name=child.child,
        local_spi=f"{child.local_spi:08x}",
        remote_spi=f"{child.remote_spi:08x}",
        suite=child.suite.name,
        encapsulation="udp" if child.udp else "raw",
        aggfrag=child.aggfrag,
        takes_slices=child.takes_slices,
        local=format_selectors(child.local),
        remote=format_selectors(child.remote),
        since=one.since or 0.0,
        is_rekeying=is_rekeying,
        counters=counters(sums),
        sizes=child_sizes(facts.plans.get(child.local_spi), sums, is_configured=is_configured) if is_newest else None,
    )


def child_sizes(plan: MtuPlan | None, sums: SaCounters, *, is_configured: bool) -> ChildSizes | None:
    """What is done about sizes on one child, and what that came to since the daemon started; None where nobody asks."""
    if plan is None:
        return None
    fragmented = sum(number for deed, number in sums.deeds.items() if deed not in {"clamp", "guard", Rung.REFUSE.value})
    return ChildSizes(
        outer_size=plan.outer_size,
        is_configured=is_configured,
        inner_room=plan.inner_room,
        slices_all=plan.slices,
        ladder=tuple(rung.value for rung in plan.oversize),
        whole=max(0, sums.outbound_packets - sums.outbound_sliced - fragmented),
        packed=sums.outbound_packed,
        sliced=sums.outbound_sliced,
        slices=sums.outbound_slices,
        assembled=sums.inbound_assembled,
        marks=sums.inbound_marks,
        deeds=dict(sums.deeds),
        drops=dict(sums.drops),
    )


def counters(sums: SaCounters) -> Counters:
    """Packets and octets both ways."""
    return Counters(
        inbound_packets=sums.inbound_packets,
        inbound_octets=sums.inbound_octets,
        outbound_packets=sums.outbound_packets,
        outbound_octets=sums.outbound_octets,
    )


def failure(number: int, facts: NegotiationFailed, connections: Sequence[Connection], clock_offset: float) -> Failure:
    """The explanation of a failed negotiation. `clock_offset` makes the core's time the wall clock's."""
    told = explain(facts, connections)
    return Failure(
        number=number,
        at=facts.at + clock_offset,
        peer=str(facts.path.remote),
        reason=reason(facts.reason),
        summary=told.summary,
        received=told.received,
        candidates=tuple(
            Candidate(connection=one.connection, field=one.field, ours=one.ours, received=one.received)
            for one in told.candidates
        ),
        advice=told.advice,
    )


def reason(word: DownReason) -> Reason:
    """The word of the core as that of the socket."""
    return Reason(word.value)


def entry(line: JournalEntry) -> Entry:
    """One line of the journal."""
    return Entry(
        number=line.number,
        at=line.at,
        level=LEVELS.get(line.level, "info"),
        kind=line.kind,
        text=line.text,
        fields=dict(line.fields),
    )
