"""Real parts of the core for tests of one part: a context, two channels that fit, a session on one of them."""

import random
from ipaddress import ip_address

from openmoat.crypto.identities import Identity
from openmoat.crypto.keymat import IkeKeymat
from openmoat.crypto.numbers import AuthMethod
from openmoat.crypto.suites import AES_128_GCM_16, PRF_HMAC_SHA2_256, X25519, EspSuite, IkeSuite
from openmoat.errors import Secret
from openmoat.ike import lifecycle
from openmoat.ike.channel import Channel
from openmoat.ike.config import IkeConfig
from openmoat.ike.connections import Connections
from openmoat.ike.context import Context
from openmoat.ike.events import ChildSa, Question
from openmoat.ike.exchanges.exchange import Ask, Step
from openmoat.ike.ike_sa import IkeSa
from openmoat.ike.negotiate.child_sa import LiveChild
from openmoat.ike.peer import AuthenticatedPeer
from openmoat.ike.registry import Registry
from openmoat.ike.session import Session
from openmoat.ike.states import Established
from openmoat.model.connection import Child, Connection
from openmoat.net import HostPort, Path
from openmoat.policy.selectors import parse_selectors
from scenario.link import child, connection

HERE = HostPort(ip_address("192.0.2.1"), 4500)
THERE = HostPort(ip_address("198.51.100.1"), 4500)
PATH = Path(HERE, THERE)
SUITE = IkeSuite(AES_128_GCM_16, None, PRF_HMAC_SHA2_256, X25519)
KEYMAT = IkeKeymat.derive(SUITE, Secret(bytes(32)), b"i" * 32, b"r" * 32, 1, 2)
NONCES = (b"\5" * 32, b"\6" * 32)


def make_context(config: IkeConfig | None = None) -> Context:
    return Context(config or IkeConfig(), random.Random(7).randbytes)  # noqa: S311  a test must replay


def make_channels(context: Context, *, fragments: bool = False) -> tuple[Channel, Channel]:
    """Ours, as initiator, and that of the peer."""
    ours = Channel(context, 1, 2, PATH, is_initiator=True)
    theirs = Channel(context, 2, 1, Path(THERE, HERE), is_initiator=False)
    for channel in (ours, theirs):
        channel.has_fragments = fragments
        channel.protect(SUITE, KEYMAT)
    return ours, theirs


def make_connection(*children: Child, name: str = "office") -> Connection:
    return connection("home.example", "portal.example", "198.51.100.1", *children, name=name)


class Core:
    """A registry with one established IKE SA, whose session exchanges can use."""

    def __init__(self, *children: Child, config: IkeConfig | None = None) -> None:
        self.context = make_context(config)
        self.connections = Connections(None, self.context.counts)
        self.registry: Registry[IkeSa] = Registry(self.context.random, self.connections)
        self.connection = make_connection(*children)
        self.connections.put(self.connection)
        self.ours, self.theirs = make_channels(self.context)
        self.session = self.make_session(self.ours)
        self.sa = self.add(self.session)
        self.context.outputs.clear()
        self.context.news.clear()

    def make_session(self, channel: Channel, peer: str = "portal.example") -> Session:
        identity = Identity.parse(peer)
        methods = (AuthMethod.PSK, AuthMethod.PSK)
        known = AuthenticatedPeer(
            self.context, self.registry, self.connection, identity, methods, NONCES, is_ours=channel.is_initiator
        )
        known.carrier = channel.own_spi
        return Session(self.context, self.registry, channel, known, SUITE, KEYMAT.sk_d, NONCES, has_our_vendor_id=False)

    def add(self, session: Session) -> IkeSa:
        sa = IkeSa(self.context, self.registry, session.channel, Established(session))
        lifecycle.authenticated(self.context, self.registry, sa, session, is_initial_contact=False)
        return sa

    def stock(self, *spis: int) -> None:
        """Give the context SPIs to hand out."""
        for spi in spis:
            self.context.return_spi(spi)

    def live(self, spi: int, *, replaces: int | None = None, name: str = "net", nonces: bytes = b"n") -> LiveChild:
        """A Child SA that is installed, with the peer's SPI one above ours."""
        spec = next(row for row in self.connection.children if row.name == name)
        made = ChildSa(
            connection=self.connection.name,
            child=name,
            peer=self.session.peer.identity,
            ike=self.session.peer.carrier,
            local_spi=spi,
            remote_spi=spi + 1,
            suite=EspSuite(AES_128_GCM_16, None),
            local=spec.local,
            remote=spec.remote,
            path=PATH,
            udp=True,
            keepalive=False,
            replaces=replaces,
        )
        live = LiveChild(sa=made, spec=spec, nonces=(nonces, nonces), is_ours=True)
        self.session.peer.add(live)
        return live


def asked(step: Step) -> Question:
    """The question of a step."""
    assert isinstance(step, Ask)
    return step.question(1)


__all__ = ["Core", "asked", "child", "make_channels", "make_connection", "make_context", "parse_selectors"]
