"""Messages under the keys of a host, as a hostile peer, or one with another mind, would write them.

The keys come from the key log (`IkeSaKeys`), the numbers from what the host has sent: nothing reaches into the endpoint.
"""

from ipaddress import ip_address
from weakref import WeakKeyDictionary

from openmoat.crypto.protection import SkProtection
from openmoat.ike.events import IkeSaKeys
from openmoat.ike.negotiate.child_sa import offer_payloads
from openmoat.ike.status import IkeSaStatus
from openmoat.ike.wire.message import Header, Message
from openmoat.ike.wire.numbers import ExchangeType
from openmoat.ike.wire.payloads import Nonce, Payload
from openmoat.net import HostPort, Path
from scenario.link import Host, Link, child, two_hosts

__all__ = ["UNKNOWN_PEER", "Forger", "answered", "core", "establish", "init_request", "offer_of", "request"]

UNKNOWN_PEER = HostPort(ip_address("203.0.113.66"), 4500)


class Forger:
    """Writes and reads what `host` could, on one of its IKE SAs."""

    def __init__(self, host: Host, sa: IkeSaStatus) -> None:
        self.host = host
        self.is_initiator = sa.is_initiator
        self.own_spi = sa.ike
        spis = (sa.ike, sa.peer_spi) if sa.is_initiator else (sa.peer_spi, sa.ike)
        self.initiator_spi, self.responder_spi = spis
        keys = next(row for row in host.told(IkeSaKeys) if (row.initiator_spi, row.responder_spi) == spis)
        suite = keys.suite
        ours = SkProtection(suite.encryption, suite.integrity, keys.sk_ei, keys.sk_ai)
        theirs = SkProtection(suite.encryption, suite.integrity, keys.sk_er, keys.sk_ar)
        self.outgoing, self.incoming = (ours, theirs) if sa.is_initiator else (theirs, ours)
        self.next_id = self._next_id()

    def _next_id(self) -> int:
        headers = [Header.parse(transmit.octets) for transmit in self.host.transmits]
        ours = {
            header.message_id
            for header in headers
            if not header.is_response
            and header.initiator_spi == self.initiator_spi
            and header.is_initiator is self.is_initiator
        }
        return max(ours, default=-1) + 1

    def next_iv(self) -> bytes:
        return self.host.rng.randbytes(self.outgoing.iv_size)

    def seal(self, message: Message) -> bytes:
        return message.seal(self.outgoing, self.next_iv())

    def open(self, datagram: bytes) -> Message:
        """What the host itself has sealed."""
        return Message.parse(datagram).open(datagram, self.outgoing)

    def open_reply(self, datagram: bytes) -> Message:
        """What its peer has sealed."""
        return Message.parse(datagram).open(datagram, self.incoming)

    def header(self, exchange: ExchangeType, message_id: int) -> Header:
        """Of a request."""
        return Header(self.initiator_spi, self.responder_spi, exchange, self.is_initiator, False, message_id)

    def request(self, exchange: ExchangeType, *payloads: Payload) -> bytes:
        """The next request."""
        octets = self.seal(Message(self.header(exchange, self.next_id), payloads))
        self.next_id += 1
        return octets


def core(host: Host) -> Forger:
    """For the first IKE SA of a host that has keys."""
    forgers = _forgers.setdefault(host, {})
    known = {(row.initiator_spi, row.responder_spi) for row in host.told(IkeSaKeys)}
    sa = next(sa for sa in host.endpoint.ike_sas() if {(sa.ike, sa.peer_spi), (sa.peer_spi, sa.ike)} & known)
    if sa.ike not in forgers:
        forgers[sa.ike] = Forger(host, sa)
    return forgers[sa.ike]


_forgers: WeakKeyDictionary[Host, dict[int, Forger]] = WeakKeyDictionary()
"""What was forged counts among the Message IDs."""


def request(sa: Forger, exchange: ExchangeType, *payloads: Payload) -> bytes:
    """The next request of a peer that says what it likes."""
    return sa.request(exchange, *payloads)


def establish(link: Link) -> tuple[Host, Host]:
    home, portal = two_hosts(link)
    link.settle()
    return home, portal


def init_request(number: int) -> bytes:
    """An IKE_SA_INIT request of an unknown peer."""
    link = Link(number)
    home, _ = two_hosts(link)
    return home.transmits[0].octets


def answered(host: Host, datagram: bytes, path: Path) -> list[bytes]:
    before = len(host.transmits)
    host.call("handle_datagram", datagram, path, now=host.link.now)
    return [transmit.octets for transmit in host.transmits[before:]]


def offer_of(
    host: Host, remote: str = "10.2.0.0/16", local: str = "10.1.0.0/16", spi: int = 0xCAFE0001
) -> list[Payload]:
    sa_payload, *rest = offer_payloads(child(local=local, remote=remote), spi, with_key_exchange=True)
    return [sa_payload, Nonce(bytes(range(32))), *rest]
