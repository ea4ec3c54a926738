"""Child SAs of the core become pairs of the backend: keys, policies, size plans, and their final counters."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import replace
from itertools import islice

from openmoat.daemon.host.plans import framing_of
from openmoat.daemon.host.policies import Policies
from openmoat.daemon.host.spd import UnknownChild
from openmoat.daemon.host.switches import Switches
from openmoat.daemon.peers import Peers
from openmoat.daemon.timers import Later, Timer
from openmoat.dataplane.backend import (
    Activate,
    AddInbound,
    AddOutbound,
    Backend,
    BackendEvent,
    Command,
    Encapsulation,
    Remove,
    SaCounters,
    Spi,
    Update,
)
from openmoat.errors import DataplaneError, MoatError, UnknownSpi
from openmoat.ike.events import (
    ActivateOutbound,
    Activity,
    AskActivity,
    AskInstall,
    AskSpis,
    ChildSa,
    Installed,
    PeerMoved,
    PeerSilent,
    Refused,
    RemoveChildSa,
    Spis,
    StopOutbound,
)
from openmoat.model.connection import Connection, IcmpCheck
from openmoat.mtu.plan import MtuPlan
from openmoat.policy.spd import PolicyConflict
from openmoat.system.links import InterfaceAddress

__all__ = ["KEEPALIVE_SECONDS", "LINGER_SECONDS", "MAX_LINGERING", "Installer"]

LINGER_SECONDS = 1.0
"""A pair that was rekeyed still receives for so long: its Delete may overtake packets that wait in another socket."""
PAIRS_A_TURN = 64
"""Pairs that are told of other addresses of the host in one turn of the loop."""
MAX_LINGERING = 4096
"""Pairs that linger; beyond them they are taken out at once."""
KEEPALIVE_SECONDS = 20.0
"""RFC 3948 4 has 20 s as default for NAT-keepalives."""


class Installer:
    """Owns the backend. Not thread-safe: it lives in the daemon's event loop."""

    def __init__(self, backend: Backend, policies: Policies, switches: Switches, peers: Peers, later: Later) -> None:
        self.backend = backend
        self._policies = policies
        self._switches = switches
        self._peers = peers
        self._later = later
        self._max_replay_window = backend.capabilities().max_replay_window
        self._ignored_df: set[tuple[str, str]] = set()
        """Connections and children of which it was told that they fragment packets despite Don't Fragment."""
        self._lingering: dict[int, Timer] = {}

    def fileno(self) -> int:
        """Readable while `drain` has something."""
        return self.backend.fileno()

    def drain(self, limit: int) -> list[BackendEvent]:
        """What the backend has noticed."""
        return self.backend.drain(limit)

    def load(self, put: Iterable[Connection], remove: Iterable[str]) -> Mapping[str, MoatError]:
        """Policies for connections that are new or changed, and none any more for those that are gone; packets that they
        select go out protected or not at all from here on. Answers with the connections that could not be taken in.
        """
        changes, conflicts = self._policies.load(put, remove)
        self.backend.apply([changes])
        return conflicts

    def reserve(self, question: AskSpis) -> Spis:
        """Refill the core's stock of SPIs."""
        return Spis(question.ticket, tuple(self.backend.reserve_spis(question.count)))

    def activity(self, question: AskActivity) -> Activity:
        """What these children have carried; pairs that are gone count nothing."""
        rows = self.backend.read_counters(question.children)
        self._peers.note_counters(rows)
        return Activity(
            question.ticket,
            inbound_packets=sum(row.inbound_packets for row in rows),
            outbound_packets=sum(row.outbound_packets for row in rows),
        )

    def install(self, question: AskInstall) -> Installed | Refused:
        """Put both halves and their policy in place, sending with neither; all of it or nothing."""
        child = question.child
        try:
            commands = self._commands(question)
        except (PolicyConflict, UnknownChild) as error:
            self.backend.release_spis([child.local_spi])
            return Refused(question.ticket, str(error), is_temporary=False)
        try:
            self.backend.apply(commands)
        except DataplaneError as error:
            self._undo(child)
            return Refused(question.ticket, str(error), is_temporary=True)
        self._peers.install(child)
        return Installed(question.ticket)

    def carrier(self, handle: Spi) -> int:
        """The IKE SA on which a pair hangs; 0 where the pair is not there."""
        child = self._peers.child(handle)
        return child.ike if child is not None else 0

    def activate(self, *events: ActivateOutbound) -> None:
        """Pairs can send. Each does, unless another connection of its group carries the packets."""
        pairs: list[Spi] = []
        for event in events:
            child = self._peers.child(event.local_spi)
            if child is not None:
                pairs.extend(self._switches.announce(child))
        self._activate(pairs)

    def suspect(self, event: PeerSilent) -> None:
        """A peer does not answer, or answers again: others of its group send as long as it does not."""
        for child in self._peers.children_of(event.ike):
            self._activate(self._switches.suspect(child.local_spi, is_silent=event.is_silent))

    def _activate(self, pairs: Iterable[Spi]) -> None:
        commands = [Activate(pair) for pair in pairs]
        if commands:
            self.backend.apply(commands)

    def stop(self, event: StopOutbound) -> None:
        """Send nothing more with this pair: it is at the end of a hard lifetime."""
        if self._peers.child(event.local_spi) is not None:
            self._activate(self._switches.withdraw(event.local_spi))
            self.backend.apply([Update(handle=event.local_spi, hard_at=0.0)])

    def remove(self, event: RemoveChildSa) -> None:
        """Take the pair out and keep its final counters."""
        child = self._peers.remove(event.local_spi)
        if child is None:
            return
        spi = child.local_spi
        self._activate(self._switches.withdraw(spi))  # before it goes, so that packets always find a way
        if self._peers.is_replaced(child) and len(self._lingering) < MAX_LINGERING:
            self._lingering[spi] = self._later(LINGER_SECONDS, lambda: self._take_out(spi))
        else:
            self._take_out(spi)
        self._release_policy(child)

    def close(self) -> None:
        """The daemon ends: nothing lingers."""
        for spi, timer in list(self._lingering.items()):
            timer.cancel()
            self._take_out(spi)

    def _take_out(self, spi: int) -> None:
        self._lingering.pop(spi, None)
        for final in self.backend.apply([Remove(spi)]):
            self._peers.retire(final)

    def move(self, event: PeerMoved) -> None:
        """Let the pairs of a peer that moved use its new path."""
        for child in filter(None, map(self._peers.child, event.children)):
            self.backend.apply([self._moved(replace(child, path=event.path, udp=event.udp))])

    def plans(self, handles: Iterable[Spi]) -> dict[Spi, MtuPlan]:
        """Sizes of live pairs, as they are now."""
        found = {}
        for child in filter(None, map(self._peers.child, handles)):
            with suppress(UnknownChild):
                found[child.local_spi] = self._policies.plan(child)
        return found

    def last_sent(self, handle: Spi) -> int:
        """The sequence number of the newest packet of a pair; 0 where there is none."""
        return next((row.outbound_sequence for row in self.backend.read_counters([handle])), 0)

    def resize(self, ike: int) -> None:
        """Larger or smaller packets reach this peer than before."""
        for child in self._peers.children_of(ike):
            with suppress(UnknownChild):  # taken out of the configuration, and about to be deleted
                plan = self._size(child)
                self.backend.apply([Update(handle=child.local_spi, plan=plan)])

    def _size(self, child: ChildSa) -> MtuPlan:
        """Sizes of a pair as it is now, for its routes as well."""
        # The routes are sized for the pair that sends, which may have another framing than the one it replaced.
        return self._policies.plan(child) if self._peers.is_replaced(child) else self._policies.resize(child)

    def ignored_df(self, handle: int) -> ChildSa | None:
        """The child of this pair, the first time that one of its pairs fragments packets despite Don't Fragment."""
        child = self._peers.child(handle)
        if child is None or (child.connection, child.child) in self._ignored_df:
            return None
        self._ignored_df.add((child.connection, child.child))
        return child

    def carried(self, ike: int) -> int:
        """Packets that the pairs of an IKE SA have sent."""
        return sum(row.outbound_packets for row in self._rows(ike))

    def proved(self, ike: int) -> int:
        """Packets of these that were as large as may be and of which the peer has said that they came."""
        return sum(row.outbound_proved for row in self._rows(ike))

    def _rows(self, ike: int) -> list[SaCounters]:
        return self.backend.read_counters(tuple(child.local_spi for child in self._peers.children_of(ike)))

    def refresh(self, connections: AbstractSet[str]) -> None:
        """Let the live pairs of these connections have the sizes and limits that are configured now."""
        self._ignored_df = {key for key in self._ignored_df if key[0] not in connections}
        self._activate(self._switches.reorder(connections))
        for child in self._peers.children():
            if child.connection not in connections:
                continue
            try:
                plan = self._size(child)
                limits = self._policies.limits(child)
            except UnknownChild:
                continue  # its child was taken out of the configuration, and it is about to be deleted
            self.backend.apply([Update(handle=child.local_spi, plan=plan, limits=limits)])

    def readdress(self, addresses: Sequence[InterfaceAddress]) -> None:
        """The host has other addresses than before: ICMP errors come from others. A slice of the pairs in each turn."""
        self._policies.plans.use_addresses(addresses)
        self._readdress(iter([child.local_spi for child in self._peers.children()]))

    def _readdress(self, waiting: Iterator[int]) -> None:
        updates: list[Command] = []
        for spi in islice(waiting, PAIRS_A_TURN):
            child = self._peers.child(spi)
            if child is not None:
                with suppress(UnknownChild):  # taken out of the configuration, and about to be deleted
                    updates.append(Update(handle=spi, plan=self._policies.plan(child)))
        if updates:
            self.backend.apply(updates)
            self._later(0.0, lambda: self._readdress(waiting))

    def counters(self, handles: Sequence[Spi] | None = None) -> dict[Spi, SaCounters]:
        """Of these pairs, or of all."""
        rows = self.backend.read_counters(handles)
        self._peers.note_counters(rows)
        return {row.handle: row for row in rows}

    def _commands(self, question: AskInstall) -> list[Command]:
        child, keys = question.child, question.keys
        policy, plan, changes = self._policies.serve(child)
        settings = self._policies.child(child)
        limits = self._policies.limits(child)
        encapsulation = Encapsulation.UDP if child.udp else Encapsulation.RAW
        inbound = AddInbound(
            spi=child.local_spi,
            suite=child.suite,
            key=keys.inbound,
            integrity_key=keys.inbound_integrity,
            encapsulation=encapsulation,
            path=child.path,
            local=child.local,
            remote=child.remote,
            replay_window=min(settings.replay_window, self._max_replay_window),
            limits=limits,
            framing=framing_of(child),
            strict_icmp=settings.icmp_check is IcmpCheck.STRICT,
        )
        outbound = AddOutbound(
            handle=child.local_spi,
            spi=child.remote_spi,
            suite=child.suite,
            key=keys.outbound,
            integrity_key=keys.outbound_integrity,
            encapsulation=encapsulation,
            path=child.path,
            local=child.local,
            remote=child.remote,
            policy=policy,
            plan=plan,
            limits=limits,
            copy_dscp=settings.copy_dscp,
            keepalive_seconds=KEEPALIVE_SECONDS if child.keepalive else 0.0,
            hard_at=child.hard_at,
        )
        return [inbound, outbound] if changes is None else [changes, inbound, outbound]

    def _moved(self, child: ChildSa) -> Update:
        return Update(
            handle=child.local_spi,
            path=child.path,
            encapsulation=Encapsulation.UDP if child.udp else Encapsulation.RAW,
            plan=self._policies.plan(child),
        )

    def _undo(self, child: ChildSa) -> None:
        """Leave nothing of a pair that could not be installed whole."""
        try:
            self.backend.apply([Remove(child.local_spi)])
        except UnknownSpi:
            self.backend.release_spis([child.local_spi])
        self._release_policy(child)

    def _release_policy(self, child: ChildSa) -> None:
        changes = self._policies.release(child)
        if changes is not None:
            self.backend.apply([changes])
