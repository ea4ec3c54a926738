"""The replies of the control socket, made from what the daemon knows: configuration, books and counters. Changes nothing."""

import logging
from collections.abc import Mapping, Sequence
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
    IkeStatus,
    OutsideSize,
    PeerStatus,
)
from openmoat.control.reasons import Reason
from openmoat.crypto.identities import Identity
from openmoat.daemon.status.accounting import Owner, Totals
from openmoat.daemon.status.book import LiveChildSa, LiveIkeSa, Record
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
    core: CoreStatus | None
    """None where the core has not been given it."""
    failed: NegotiationFailed | None = None
    """What last came to nothing since something was up."""
    source: str = ""
    conflict: str = ""
    """Why its policies could not be taken in."""
    clock_offset: float = 0.0
    """Added to the core's times it makes those of the wall clock."""
    totals: Mapping[Owner, Totals]
    live: Mapping[int, SaCounters]
    ike_sas: Mapping[int, IkeSaStatus]
    plans: Mapping[int, MtuPlan]
    """By inbound SPI, where sizes are wanted."""
    paths: Mapping[int, Discovery]
    """By IKE SA, what is known of the way to its peer."""


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
        source=facts.source,
        peers=peers(connection, facts),
        failure=failure,
    )


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
        return ConnectionState.WAITING, record.since, Reason.NOT_ASKED, f"{len(record.ike_sas)} peers are here"
    names = [live.child.child for live in record.children.values()]
    if names:
        return up_state(facts, names)
    if state in {ConnectionState.CONNECTING, ConnectionState.DOWN} and record.missed is not None:
        since = min(since, record.missed)
    if core.reason is not None:
        return state, since, reason(core.reason), core.text
    if state is ConnectionState.WAITING and facts.failed is not None:
        return state, since, reason(facts.failed.reason), facts.failed.text
    return state, since, Reason.NOT_ASKED if state is ConnectionState.WAITING else None, ""


def up_state(facts: Facts, names: list[str]) -> State:
    """Some children are there: whether all that are wanted, and whether successors are on their way."""
    core, record = facts.core, facts.record
    since = max(live.since for live in record.children.values())
    if core is not None and core.missing:
        why = reason(core.reason) if core.reason is not None else None
        return ConnectionState.CONNECTING, since, why, f"not there: {', '.join(core.missing)}"
    is_rekeying = len(names) > len(set(names)) or any(row.is_rekeying for row in ike_rows(facts))
    return (ConnectionState.REKEYING if is_rekeying else ConnectionState.UP), since, None, ""


def ike_rows(facts: Facts) -> list[IkeSaStatus]:
    """What the core says of the IKE SAs of the connection."""
    return [facts.ike_sas[ike] for ike in facts.record.ike_sas if ike in facts.ike_sas]


def peers(connection: Connection, facts: Facts) -> tuple[PeerStatus, ...]:
    """The peers that are here, and those that were and have counters."""
    ike: dict[Identity, LiveIkeSa] = {live.up.peer: live for live in facts.record.ike_sas.values()}
    children: dict[Identity, list[LiveChildSa]] = {}
    for live in facts.record.children.values():
        children.setdefault(live.child.peer, []).append(live)
    totals = {owner.peer: sums for owner, sums in facts.totals.items() if owner.connection == connection.name}
    found = sorted({*ike, *children, *totals}, key=str)
    return tuple(
        PeerStatus(
            identity=str(identity),
            ike=ike_status(ike[identity], facts) if identity in ike else None,
            children=child_statuses(connection, children.get(identity, []), facts),
            counters=counters(totals.get(identity, Totals())),
        )
        for identity in found
    )


def ike_status(live: LiveIkeSa, facts: Facts) -> IkeStatus:
    """One IKE SA."""
    up = live.up
    row = facts.ike_sas.get(up.ike)
    rekey_at = row.rekey_at if row is not None else None
    return IkeStatus(
        spi=f"{up.ike:016x}",
        peer_spi=f"{up.peer_spi:016x}",
        is_initiator=up.is_initiator,
        suite=up.suite.name,
        path=str(row.path if row is not None else up.path),
        behind_nat=up.behind_nat,
        peer_behind_nat=up.peer_behind_nat,
        own_method=up.own_method.name.lower(),
        peer_method=up.peer_method.name.lower(),
        since=live.since,
        rekey_at=rekey_at + facts.clock_offset if rekey_at is not None else None,
        outside=outside_size(facts.paths[up.ike], facts.clock_offset) if up.ike in facts.paths else None,
    )


def outside_size(found: Discovery, clock_offset: float) -> OutsideSize:
    """What is known of a path."""
    hole = found.black_hole
    return OutsideSize(
        size=found.size,
        learned=found.learned.value,
        at=found.learned_at + clock_offset if found.learned_at is not None else None,
        phase=found.phase.value,
        probing=found.probe,
        probing_fragments=found.probes_fragments,
        fragments_pass=found.fragments_pass,
        hints=found.hints,
        black_hole=BlackHole(at=hole.at + clock_offset, before=hole.before, after=hole.after) if hole else None,
    )


def child_statuses(connection: Connection, children: Sequence[LiveChildSa], facts: Facts) -> tuple[ChildStatus, ...]:
    """The Child SAs of one peer, by name, the newest of a name last."""
    names = [one.child.child for one in children]
    live = facts.live
    configured = {child.name for child in connection.children if child.path_mtu is not None}
    rows = sorted(children, key=lambda one: (one.child.child, one.rekeyed or one.since))
    return tuple(
        ChildStatus(
            name=one.child.child,
            local_spi=f"{one.child.local_spi:08x}",
            remote_spi=f"{one.child.remote_spi:08x}",
            suite=one.child.suite.name,
            encapsulation="udp" if one.child.udp else "raw",
            aggfrag=one.child.aggfrag,
            takes_slices=one.child.takes_slices,
            local=format_selectors(one.child.local),
            remote=format_selectors(one.child.remote),
            since=one.since,
            is_rekeying=names.count(one.child.child) > 1,
            counters=counters(live[one.child.local_spi]) if one.child.local_spi in live else Counters(),
            sizes=child_sizes(one.child.local_spi, facts, is_configured=one.child.child in configured),
        )
        for one in rows
    )


def child_sizes(spi: int, facts: Facts, *, is_configured: bool) -> ChildSizes | None:
    """What is done about sizes on one Child SA; None where nobody asks, or it is being taken out."""
    plan, row = facts.plans.get(spi), facts.live.get(spi)
    if plan is None or row is None:
        return None
    fragmented = sum(number for deed, number in row.deeds.items() if deed not in {"clamp", "guard", Rung.REFUSE.value})
    return ChildSizes(
        outer_size=plan.outer_size,
        is_configured=is_configured,
        inner_room=plan.inner_room,
        slices_all=plan.slices,
        ladder=tuple(rung.value for rung in plan.oversize),
        whole=max(0, row.outbound_packets - row.outbound_sliced - fragmented),
        packed=row.outbound_packed,
        sliced=row.outbound_sliced,
        slices=row.outbound_slices,
        assembled=row.inbound_assembled,
        marks=row.inbound_marks,
        deeds=dict(row.deeds),
        drops=dict(row.drops),
    )


def counters(sums: Totals | SaCounters) -> Counters:
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
