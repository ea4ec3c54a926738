"""Names of peers that are up are asked again by their TTL, of a server that speaks DNS."""

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rrset
import pytest

from openmoat.crypto.identities import Identity, IdentityPattern
from openmoat.crypto.numbers import IdType
from openmoat.crypto.suites import AES_128_GCM_16, PRF_HMAC_SHA2_256, X25519
from openmoat.daemon.names.paths import MAX_TTL, Names
from openmoat.daemon.names.renewal import MIN_RENEWAL, NameWatch
from openmoat.daemon.peers import Peers
from openmoat.daemon.status.journal import Journal
from openmoat.ike.events import DownReason, Event, IkeSaDown, PeerMoved
from openmoat.model.connection import Child, Connection, EspProposal, IkeProposal, Peer, Psk
from openmoat.net import Address, HostPort
from openmoat.net import Path as OuterPath
from openmoat.policy.selectors import parse_selectors
from unit.daemon.kit import ike_up

PORTAL = Identity(IdType.FQDN, b"portal.example")
OLD = ipaddress.ip_address("198.51.100.7")
NEW = ipaddress.ip_address("198.51.100.8")


class Server(asyncio.DatagramProtocol):
    """Answers questions for A records; everything else is empty."""

    def __init__(self) -> None:
        self.addresses: list[str] = [str(OLD)]
        self.ttl = 300
        self.questions = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.RA
        question = query.question[0]
        self.questions += 1
        if question.rdtype == dns.rdatatype.A and self.addresses:
            reply.answer.append(dns.rrset.from_text(question.name, self.ttl, "IN", "A", *self.addresses))
        self.transport.sendto(reply.to_wire(), addr)


@dataclass
class Call:
    """One deadline."""

    at: float
    act: Callable[[], None]
    is_wanted: bool = True

    def cancel(self) -> None:
        self.is_wanted = False


@dataclass
class World:
    """A watch over names, with time in our hands and a server of our own."""

    server: Server
    now: float = 0.0
    calls: list[Call] = field(default_factory=list)
    is_readable: bool = True
    """Whether the resolver can read its configuration."""
    suspected: list[int] = field(default_factory=list)
    places: tuple[str | Address, ...] = ("portal.example",)

    def watch(self, port: int) -> None:
        def resolver() -> dns.asyncresolver.Resolver:
            if not self.is_readable:
                raise PermissionError("/etc/resolv.conf")
            made = dns.asyncresolver.Resolver(configure=False)
            made.nameservers, made.port = ["127.0.0.1"], port
            return made

        self.names = Names(lambda: self.now, Path("/dev/null"), resolver)
        self.journal = Journal(lambda: self.now)
        self.peers = Peers(lambda: self.now)
        self.renewal = NameWatch(self.names, self.find, self.peers, self.suspected.append, self.journal, self.later)

    def handle(self, event: Event) -> None:
        self.peers.handle_event(event)
        self.renewal.handle_event(event)

    def find(self, name: str) -> Connection:
        return Connection(
            name=name,
            local_identity=Identity(IdType.FQDN, b"home.example"),
            own=Psk("psk"),
            peer=Peer(addresses=self.places, identity=IdentityPattern.parse("portal.example"), credential=Psk("psk")),
            children=(
                Child(
                    name="net",
                    local=parse_selectors(["10.1.0.0/16"]),
                    remote=parse_selectors(["10.2.0.0/16"]),
                    proposals=(EspProposal(encryptions=(AES_128_GCM_16,)),),
                ),
            ),
            proposals=(IkeProposal(encryptions=(AES_128_GCM_16,), prfs=(PRF_HMAC_SHA2_256,), key_exchanges=(X25519,)),),
        )

    def later(self, seconds: float, act: Callable[[], None]) -> Call:
        self.calls.append(Call(self.now + seconds, act))
        return self.calls[-1]

    async def up(self, ike: int, *, replaces: int | None = None, is_initiator: bool = True) -> None:
        await self.names.addresses("portal.example", False)
        self.handle(ike_up(ike, "portal", PORTAL, replaces=replaces, is_initiator=is_initiator, way=path()))

    @property
    def due(self) -> list[float]:
        return [call.at for call in self.calls if call.is_wanted]

    async def next(self) -> None:
        """The next deadline, and what comes of it."""
        call = min((call for call in self.calls if call.is_wanted), key=lambda call: call.at)
        self.calls.remove(call)
        self.now = call.at
        call.act()
        await self.renewal.finish()


def path(remote: Address = OLD) -> OuterPath:
    return OuterPath(HostPort(ipaddress.ip_address("192.0.2.1"), 4500), HostPort(remote, 4500))


@asynccontextmanager
async def world(*places: str | Address) -> AsyncIterator[World]:
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))
    made = World(server)
    if places:
        made.places = places
    made.watch(transport.get_extra_info("sockname")[1])
    try:
        yield made
    finally:
        made.renewal.close()
        transport.close()


def test_a_name_is_asked_again_when_its_ttl_is_over_and_not_before() -> None:
    async def run() -> None:
        async with world() as w:
            await w.up(1)
            assert w.due == [300.0]
            asked = w.server.questions
            await w.next()
            assert w.server.questions > asked
            assert (w.suspected, w.due) == ([], [600.0])

    asyncio.run(run())


def test_a_peer_whose_name_has_moved_is_asked_for_a_sign_of_life_once() -> None:
    async def run() -> None:
        async with world() as w:
            await w.up(1)
            w.server.addresses = [str(NEW)]
            await w.next()
            assert w.suspected == [1]
            entry = w.journal.entries()[-1]
            assert (entry.kind, entry.fields) == ("name-moved", {"conn": "portal"})
            assert str(NEW) in entry.text
            assert str(OLD) in entry.text
            await w.next()
            assert w.suspected == [1]
            w.server.addresses = [str(OLD), str(NEW)]
            await w.next()
            w.server.addresses = [str(NEW)]
            await w.next()
            assert w.suspected == [1, 1]

    asyncio.run(run())


def test_a_server_that_knows_nothing_any_more_moves_nobody() -> None:
    async def run() -> None:
        async with world() as w:
            await w.up(1)
            w.server.addresses = []
            await w.next()
            assert w.suspected == []
            assert w.due == [300.0 + MIN_RENEWAL]

    asyncio.run(run())


def test_a_question_that_cannot_be_asked_is_asked_again_later() -> None:
    async def run() -> None:
        async with world() as w:
            await w.up(1)

            w.is_readable = False
            with pytest.raises(PermissionError):
                await w.next()
            assert w.due == [300.0 + MIN_RENEWAL]
            w.is_readable, w.server.addresses = True, [str(NEW)]
            await w.next()
            assert w.suspected == [1]

    asyncio.run(run())


def test_times_to_live_are_bounded_both_ways() -> None:
    async def run() -> None:
        for ttl, wait in ((0, MIN_RENEWAL), (2**31 - 1, MAX_TTL)):
            async with world() as w:
                w.server.ttl = ttl
                await w.up(1)
                assert w.due == [wait]

    asyncio.run(run())


def test_a_rekey_takes_the_watch_over_and_the_end_ends_it() -> None:
    async def run() -> None:
        async with world() as w:
            await w.up(1)
            await w.up(2, replaces=1, is_initiator=False)
            assert len(w.due) == 1
            w.server.addresses = [str(NEW)]
            await w.next()
            assert w.suspected == [2]
            w.handle(IkeSaDown(2, "portal", PORTAL, DownReason.PEER_SILENT))
            assert w.due == []

    asyncio.run(run())


def test_a_peer_that_moved_to_what_the_name_says_is_not_suspected() -> None:
    async def run() -> None:
        async with world() as w:
            await w.up(1)
            w.server.addresses = [str(NEW)]
            w.handle(PeerMoved(1, path(NEW), True, ()))
            await w.next()
            assert w.suspected == []

    asyncio.run(run())


def test_peers_that_came_to_us_or_have_addresses_are_not_looked_for() -> None:
    async def run() -> None:
        async with world() as w:
            await w.up(1, is_initiator=False)
            assert w.due == []
        async with world(OLD) as w:
            await w.up(1)
            assert w.due == []

    asyncio.run(run())
