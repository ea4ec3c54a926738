"""Endpoints on a link, in virtual time: questions are answered with real cryptography, SAs are kept in tables, packets
may be lost, doubled, reordered and translated. Everything is seeded, nothing sleeps."""

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import IPv4Address, ip_address
from typing import TypeVar

from openmoat.crypto.auth import check_psk, psk_octets
from openmoat.crypto.identities import Identity, IdentityPattern
from openmoat.crypto.kex import make_key_pair, shared_secret
from openmoat.crypto.numbers import AuthMethod
from openmoat.crypto.suites import (
    AES_128_GCM_16,
    AES_256_GCM_16,
    ECP_256,
    PRF_HMAC_SHA2_256,
    X25519,
    KeyExchange,
)
from openmoat.errors import BadPublicValue, CryptoError, Secret
from openmoat.ike.config import IkeConfig
from openmoat.ike.endpoint import Endpoint
from openmoat.ike.events import (
    ActivateOutbound,
    Activity,
    Answer,
    AskActivity,
    AskInstall,
    AskKeyPair,
    AskOwnAuth,
    AskPath,
    AskPeerAuth,
    AskSharedSecret,
    AskSpis,
    Certificate,
    ChildKeys,
    ChildSa,
    Event,
    Installed,
    KeyPair,
    OwnAuth,
    Paths,
    PeerAccepted,
    PeerRefused,
    Question,
    Refused,
    RemoveChildSa,
    SharedSecret,
    Spis,
    StopOutbound,
    Transmit,
    WeakPublicValue,
)
from openmoat.ike.status import IkeSaStatus
from openmoat.ike.wire.message import Header
from openmoat.ike.wire.numbers import ExchangeType
from openmoat.model.connection import (
    Child,
    ChildLifetimes,
    Connection,
    EspProposal,
    IkeLifetimes,
    IkeProposal,
    Peer,
    Psk,
    Start,
)
from openmoat.net import Address, HostPort, Path
from openmoat.policy.selectors import parse_selectors

Told = TypeVar("Told", bound=Event)
PSK = Secret(b"correct horse battery staple")
LATENCY = 0.01
AES_GCM = IkeProposal(encryptions=(AES_128_GCM_16,), prfs=(PRF_HMAC_SHA2_256,), key_exchanges=(X25519,))


def ike_proposal(*methods: KeyExchange) -> IkeProposal:
    return IkeProposal(encryptions=(AES_128_GCM_16,), prfs=(PRF_HMAC_SHA2_256,), key_exchanges=methods)


def child(
    name: str = "net",
    local: str = "10.1.0.0/16",
    remote: str = "10.2.0.0/16",
    start: Start = Start.AUTO,
    methods: tuple[KeyExchange, ...] = (),
    lifetimes: ChildLifetimes | None = None,
) -> Child:
    return Child(
        name=name,
        local=parse_selectors(local.split(",")),
        remote=parse_selectors(remote.split(",")),
        proposals=(EspProposal(encryptions=(AES_128_GCM_16, AES_256_GCM_16), key_exchanges=methods),),
        start=start,
        lifetimes=lifetimes or ChildLifetimes(),
    )


def connection(
    local: str,
    peer: str,
    address: str | None,
    *children: Child,
    name: str = "",
    retry: bool = True,
    proposals: tuple[IkeProposal, ...] = (AES_GCM,),
    lifetimes: IkeLifetimes | None = None,
    fragmentation: bool = True,
    force_encapsulation: bool = False,
) -> Connection:
    if address is None:
        children = tuple(replace(row, start=Start.NONE) for row in children)
    return Connection(
        name=name or peer.split(".")[0],
        local_identity=Identity.parse(local),
        own=Psk("psk"),
        peer=Peer(
            addresses=(ip_address(address),) if address else (),
            identity=IdentityPattern.parse(peer),
            credential=Psk("psk"),
        ),
        children=children or (child(start=Start.AUTO if address else Start.NONE),),
        proposals=proposals,
        lifetimes=lifetimes or IkeLifetimes(),
        retry=retry,
        fragmentation=fragmentation,
        force_encapsulation=force_encapsulation,
    )


@dataclass(slots=True)
class Sa:
    """One Child SA as a data plane holds it."""

    child: ChildSa
    keys: ChildKeys
    is_active: bool = False
    order: int = 0
    has_received: bool = False
    received: int = 0
    sent: int = 0


class Host:
    """One Endpoint with everything it asks for."""

    def __init__(self, link: "Link", name: str, address: str, config: IkeConfig | None = None) -> None:
        self.link = link
        self.name = name
        self.address: Address = ip_address(address)
        self.psk = PSK
        """What the peer must prove."""
        self.own_psk = PSK
        """What we prove."""
        self.rng = random.Random(f"{link.seed}/{name}")  # noqa: S311  a test must replay
        self.sas: dict[int, Sa] = {}
        self.events: list[Event] = []
        self.transmits: list[Transmit] = []
        self.refuses: Refused | None = None
        self.certificates: tuple[Certificate, ...] = ()
        self.held: list[Question] = []
        self.holds: Callable[[Question], bool] = lambda question: False
        self.spoils: Callable[[Question], bool] = lambda question: False
        """Takes a question over: nobody else answers it."""
        self.raised: list[Exception] | None = None
        """What escaped the endpoint, where a test expects that; else it ends the test."""
        self._spis = itertools.count(0xC0000000 + (self.rng.getrandbits(20) << 8))
        self._orders = itertools.count(1)
        self.peers: dict[str, str] = {}
        self.connections: dict[str, Connection] = {}
        self.config = replace(config or IkeConfig(), reveal_keys=True)
        """With a key log, from which `forge` writes what this host could."""
        self.fails_randomness = False
        """The next random octets cannot be had."""
        self.endpoint = Endpoint(self.config, self.randbytes)
        self.flush()

    def randbytes(self, count: int) -> bytes:
        if self.fails_randomness:
            self.fails_randomness = False
            raise OSError("no random numbers")
        return self.rng.randbytes(count)

    # Verbs that a test uses.

    def load(self, *connections: Connection) -> None:
        for row in connections:
            self.connections[row.name] = row
        self.call("load", connections, now=self.link.now)

    def do(self, verb: str, *arguments: object) -> None:
        self.call(verb, *arguments, now=self.link.now)

    def call(self, method: str, *arguments: object, now: float) -> None:
        """Call the endpoint and carry out what it says."""
        acting, self.link.acting = self.link.acting, self
        self.guarded(lambda: getattr(self.endpoint, method)(*arguments, now=now))
        self.flush()
        self.link.acting = acting

    def guarded(self, step: Callable[[], None]) -> None:
        """One step, as the driver of the daemon takes it: what escapes it ends nothing else."""
        try:
            step()
        except Exception as error:
            if self.raised is None:
                raise
            self.raised.append(error)

    def restart(self) -> None:
        """Killed and started again: everything is forgotten, nobody is told."""
        self.sas.clear()
        self.held.clear()
        self.endpoint = Endpoint(self.config, self.randbytes)
        self.endpoint.load(self.connections.values(), self.link.now)
        self.flush()

    # What it holds.

    def told(self, kind: type[Told]) -> list[Told]:
        return [event for event in self.events if isinstance(event, kind)]

    def ike_sas(self) -> list[IkeSaStatus]:
        return [sa for sa in self.endpoint.ike_sas() if sa.state == "Established"]

    def ike(self) -> IkeSaStatus:
        found = self.ike_sas()
        assert len(found) == 1, f"{self.name}: {found}"
        return found[0]

    def child(self) -> ChildSa:
        assert len(self.sas) == 1, f"{self.name}: {[hex(spi) for spi in self.sas]}"
        return next(iter(self.sas.values())).child

    def sending(self) -> Sa | None:
        """The newest active pair wins."""
        return max((sa for sa in self.sas.values() if sa.is_active), key=lambda sa: sa.order, default=None)

    # The shell.

    def flush(self) -> None:
        while (output := self.endpoint.poll_output()) is not None:
            carry_out = partial(self.carry_out, output)
            self.guarded(carry_out)

    def carry_out(self, output: Transmit | Question | Event) -> None:
        match output:
            case Transmit():
                self.transmits.append(output)
                self.link.transmit(self, output)
            case ActivateOutbound(local_spi=spi):
                self.sas[spi].is_active = True
                self.sas[spi].order = next(self._orders)
            case StopOutbound(local_spi=spi):
                self.sas[spi].is_active = False
            case RemoveChildSa(local_spi=spi):
                self.sas.pop(spi, None)
            case _ if isinstance(output, Question):
                if self.spoils(output):
                    return
                if self.holds(output):
                    self.held.append(output)
                elif self.link.slowness:
                    self.link.think(self, output)
                else:
                    self.answer(output)
            case _:
                self.events.append(output)

    def answer(self, question: Question) -> None:
        self.give(self.reply(question))

    def give(self, answer: Answer) -> None:
        """Hand an answer to the endpoint."""
        self.guarded(lambda: self.endpoint.handle_answer(answer, self.link.now))

    def release(self) -> None:
        """Answer what was held back."""
        held, self.held = self.held, []
        for question in held:
            self.answer(question)
        self.flush()

    def reply(self, question: Question) -> Answer:
        match question:
            case AskSpis(ticket=t, count=count):
                return Spis(t, tuple(itertools.islice(self._spis, count)))
            case AskPath(ticket=t, connection=name):
                addresses = self.connections[name].peer.addresses
                local = HostPort(self.address, 500)
                return Paths(t, tuple(Path(local, HostPort(a, 500)) for a in addresses if not isinstance(a, str)))
            case AskKeyPair(ticket=t, method=method, seed=seed):
                public, private = make_key_pair(method, seed)
                return KeyPair(t, public, private)
            case AskSharedSecret(ticket=t):
                try:
                    return SharedSecret(t, shared_secret(question.method, question.private, question.peer_value))
                except BadPublicValue as error:
                    return WeakPublicValue(t, str(error))
            case AskOwnAuth(ticket=t):
                octets = psk_octets(question.prf, self.own_psk, question.signed_octets)
                return OwnAuth(t, AuthMethod.PSK, octets, self.certificates)
            case AskPeerAuth(ticket=t):
                try:
                    check_psk(question.prf, self.psk, question.signed_octets, question.octets)
                except CryptoError as error:
                    return PeerRefused(t, str(error))
                return PeerAccepted(t)
            case AskActivity(ticket=t, children=children):
                found = [self.sas[spi] for spi in children if spi in self.sas]
                return Activity(t, sum(sa.received for sa in found), sum(sa.sent for sa in found))
            case AskInstall(ticket=t):
                if self.refuses is not None:
                    return Refused(t, self.refuses.text, self.refuses.is_temporary)
                assert question.child.local_spi not in self.sas
                self.sas[question.child.local_spi] = Sa(question.child, question.keys)
                return Installed(t)
        raise AssertionError(question)


@dataclass(order=True, slots=True)
class Flight:
    """A datagram on its way."""

    at: float
    serial: int
    target: Host = field(compare=False)
    path: Path = field(compare=False)
    octets: bytes = field(compare=False)


@dataclass(order=True, slots=True)
class Thought:
    """A question somebody works on."""

    at: float
    serial: int
    host: Host = field(compare=False)
    endpoint: Endpoint = field(compare=False)
    reply: Answer = field(compare=False)


class Nat:
    """Hides hosts behind one outside address; a mapping lasts until `forget`."""

    def __init__(self, outside: str) -> None:
        self.outside = IPv4Address(outside)
        self.ports = itertools.count(40000)
        self.mappings: dict[HostPort, HostPort] = {}

    def out(self, inside: HostPort) -> HostPort:
        if inside not in self.mappings:
            self.mappings[inside] = HostPort(self.outside, next(self.ports))
        return self.mappings[inside]

    def back(self, outside: HostPort) -> HostPort | None:
        return next((i for i, o in self.mappings.items() if o == outside), None)

    def forget(self) -> None:
        self.mappings.clear()


class Link:
    """Carries datagrams between hosts. `deliver` moves one; `run` lets time pass."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.rng = random.Random(seed)  # noqa: S311
        self.now = 1000.0
        self.acting: Host | None = None
        """Whose endpoint is at work."""
        self.hosts: list[Host] = []
        self.nats: dict[Host, Nat] = {}
        self.flights: list[Flight] = []
        self.serials = itertools.count()
        self.loss = 0.0
        self.doubling = 0.0
        self.spread = 0.0
        self.slowness = 0.0
        """Seconds, at most, that an answer takes; 0: all come at once."""
        self.thoughts: list[Thought] = []
        self.drop: Callable[[bytes], bool] = lambda octets: False
        self.carried = 0
        self.genuine: dict[int, bytes] = {}
        """Datagrams that were spoiled, as they had been sent."""
        self._ticked = self.now
        self.tick: Callable[[], None] = self.exchange_packets

    def host(self, name: str, address: str, nat: Nat | None = None, config: IkeConfig | None = None) -> Host:
        made = Host(self, name, address, config)
        self.hosts.append(made)
        if nat is not None:
            self.nats[made] = nat
        return made

    # Datagrams.

    def transmit(self, sender: Host, transmit: Transmit) -> None:
        if self.drop(transmit.octets) or self.rng.random() < self.loss:
            return
        source, target = transmit.path.local, transmit.path.remote
        if sender in self.nats:
            source = self.nats[sender].out(source)
        for host, nat in self.nats.items():
            if target.address == nat.outside and (inside := nat.back(target)) and inside.address == host.address:
                self.fly(host, Path(inside, source), transmit.octets)
                return
        for host in self.hosts:
            if host.address == target.address and host not in self.nats:
                self.fly(host, Path(target, source), transmit.octets)

    def fly(self, target: Host, path: Path, octets: bytes) -> None:
        copies = 2 if self.rng.random() < self.doubling else 1
        for _ in range(copies):
            at = self.now + LATENCY + self.spread * self.rng.random()
            heapq.heappush(self.flights, Flight(at, next(self.serials), target, path, octets))

    def think(self, host: Host, question: Question, seconds: float | None = None) -> None:
        """Let the answer take its time."""
        at = self.now + (self.slowness * self.rng.random() if seconds is None else seconds)
        # What is to be done is done at once, in the order in which it was asked for; only the answer is late.
        heapq.heappush(self.thoughts, Thought(at, next(self.serials), host, host.endpoint, host.reply(question)))

    def answer(self) -> None:
        """Give the next answer. A host that was restarted meanwhile does not know the question any more."""
        thought = heapq.heappop(self.thoughts)
        if thought.endpoint is thought.host.endpoint:
            thought.host.call("handle_answer", thought.reply, now=self.now)

    def deliver(self) -> Header:
        """Move the next datagram, without letting time pass for timers; gives its header."""
        assert self.flights, "nothing is on its way"
        flight = heapq.heappop(self.flights)
        self.now = max(self.now, flight.at)
        self.carried += 1
        flight.target.call("handle_datagram", flight.octets, flight.path, now=self.now)
        return Header.parse(self.genuine.pop(flight.serial, flight.octets))

    def spoil(self, place: int, mask: int = 1) -> None:
        """Change one octet of the next datagram."""
        flight = self.flights[0]
        self.genuine[flight.serial] = flight.octets
        octets = bytearray(flight.octets)
        octets[place] ^= mask
        flight.octets = bytes(octets)

    def exchanges(self) -> Iterator[ExchangeType]:
        """Kinds of the datagrams on their way."""
        return (Header.parse(flight.octets).exchange for flight in sorted(self.flights))

    def settle(self) -> None:
        """Deliver until nothing is on its way; timers do not run."""
        for _ in range(10_000):
            if not self.flights:
                return
            self.deliver()
        raise AssertionError("the exchange of messages does not end")

    # Time.

    def run(self, seconds: float) -> None:
        """Let time pass, jumping from event to event."""
        end = self.now + seconds
        while (due := self.next_event()) is not None and due <= end:
            self.now = max(self.now, due)
            while self._ticked + 1 <= self.now:
                self._ticked += 1
                self.tick()
            if self.thoughts and self.thoughts[0].at <= self.now:
                self.answer()
                continue
            if self.flights and self.flights[0].at <= self.now:
                self.deliver()
                continue
            for host in self.hosts:
                at = host.endpoint.poll_timeout()
                if at is not None and at <= self.now:
                    host.call("handle_timeout", now=self.now)
        self.now = end

    def next_event(self) -> float | None:
        times = [queue[0].at for queue in (self.flights, self.thoughts) if queue]
        times += [at for host in self.hosts if (at := host.endpoint.poll_timeout()) is not None]
        times.append(self._ticked + 1)
        return min(times)

    # Packets in the tunnel.

    def exchange_packets(self) -> None:
        """Every host sends one packet through its tunnel; it arrives where the keys fit."""
        for sender in self.hosts:
            sa = sender.sending()
            if sa is None:
                continue
            sa.sent += 1
            for receiver in self.hosts:
                other = receiver.sas.get(sa.child.remote_spi)
                if receiver is sender or other is None or other.keys.inbound != sa.keys.outbound:
                    continue
                if self.rng.random() < self.loss:
                    continue
                other.received += 1
                if not other.has_received:
                    other.has_received = True
                    receiver.call("handle_first_packet", other.child.local_spi, now=self.now)


def two_hosts(link: Link, *, retry: bool = True) -> tuple[Host, Host]:
    """A home that begins and a portal that waits, one child each."""
    home, portal = link.host("home", "192.0.2.1"), link.host("portal", "198.51.100.1")
    portal.load(
        connection(
            "portal.example",
            "home.example",
            None,
            child(local="10.2.0.0/16", remote="10.1.0.0/16", start=Start.NONE),
        )
    )
    home.load(connection("home.example", "portal.example", "198.51.100.1", child(), retry=retry))
    return home, portal


__all__ = ["ECP_256", "Host", "Link", "Nat", "child", "connection", "ike_proposal", "two_hosts"]
