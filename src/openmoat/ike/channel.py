"""What moves the octets of one IKE SA: SPIs, path, message IDs, protection and fragments. Knows no exchange and no state."""

from collections.abc import Sequence
from typing import Self

import msgspec

from openmoat.crypto.keymat import IkeKeymat
from openmoat.crypto.protection import SkProtection
from openmoat.crypto.suites import Aead, IkeSuite
from openmoat.errors import BadIcv
from openmoat.ike.config import Count
from openmoat.ike.context import Context
from openmoat.ike.errors import MalformedMessage
from openmoat.ike.events import IkeSaKeys
from openmoat.ike.natt import NatView, esp_path, on_natt_port
from openmoat.ike.window import Arrival, SentRequest, Window
from openmoat.ike.wire.fragments import Reassembly, datagram_size, message_size, seal_fragments
from openmoat.ike.wire.message import HEADER_SIZE, SK_HEADER_SIZE, Header, Message, emit_chain, message_room
from openmoat.ike.wire.numbers import ExchangeType
from openmoat.ike.wire.payloads import EncryptedFragment, Payload
from openmoat.net import Path

__all__ = ["Channel", "Malformed", "Received", "Unread"]


class Unread(msgspec.Struct, frozen=True, gc=False):
    """It cannot be decrypted, or is not encrypted: a message of IKE_SA_INIT, or one that came before there were keys."""


class Malformed(msgspec.Struct, frozen=True, gc=False):
    """An authenticated peer has written what cannot be read."""

    error: MalformedMessage


Received = Message | Malformed | Unread

_DROPPED = {
    Arrival.BUSY: Count.BUSY_REQUEST,
    Arrival.STALE: Count.STALE_REQUEST,
    Arrival.AHEAD: Count.REQUEST_AHEAD,
}


class Channel:
    """The messages of one IKE SA, out and in. Before `protect` only IKE_SA_INIT messages, which are unencrypted."""

    __slots__ = (
        "_context",
        "_incoming",
        "_iv",
        "_outgoing",
        "_reassembly",
        "forces_udp",
        "has_fragments",
        "is_initiator",
        "nat",
        "own_spi",
        "path",
        "peer_spi",
        "suite",
        "window",
    )

    def __init__(self, context: Context, own_spi: int, peer_spi: int, path: Path, *, is_initiator: bool) -> None:
        self._context = context
        self.own_spi = own_spi
        self.peer_spi = peer_spi
        self.is_initiator = is_initiator
        """We sent the first message: our SPI is the initiator's in every header."""
        self.path = path
        self.window = Window()
        self.nat = NatView()
        self.forces_udp = False
        """ESP goes in UDP also where no NAT was found."""
        self.has_fragments = False
        """Both sides can do IKE fragmentation (RFC 7383)."""
        self.suite: IkeSuite | None = None
        self._outgoing: SkProtection | None = None
        self._incoming: SkProtection | None = None
        self._iv = 0
        self._reassembly: dict[bool, Reassembly] | None = None
        """Fragments of the response and of the request that are coming in: their Message IDs may be the same number."""

    @property
    def initiator_spi(self) -> int:
        """SPIi of the header."""
        return self.own_spi if self.is_initiator else self.peer_spi

    @property
    def responder_spi(self) -> int:
        """SPIr of the header."""
        return self.peer_spi if self.is_initiator else self.own_spi

    @property
    def uses_udp(self) -> bool:
        """Whether ESP goes in UDP (RFC 7296 2.23)."""
        return self.nat.is_found or self.forces_udp

    @property
    def esp_path(self) -> Path:
        """The path of ESP packets."""
        return esp_path(self.path, udp=self.uses_udp)

    @property
    def is_protected(self) -> bool:
        """There are keys: every message from now on is encrypted."""
        return self._incoming is not None

    def protect(self, suite: IkeSuite, keymat: IkeKeymat) -> None:
        """From now on messages are encrypted."""
        self.suite = suite
        ours = SkProtection(suite.encryption, suite.integrity, keymat.sk_ei, keymat.sk_ai)
        theirs = SkProtection(suite.encryption, suite.integrity, keymat.sk_er, keymat.sk_ar)
        self._outgoing, self._incoming = (ours, theirs) if self.is_initiator else (theirs, ours)
        if self._context.config.reveal_keys:
            spis = (self.initiator_spi, self.responder_spi)
            keys = (keymat.sk_ei, keymat.sk_er, keymat.sk_ai, keymat.sk_ar)
            self._context.emit(IkeSaKeys(*spis, suite, *keys))

    def sibling(self, own_spi: int, peer_spi: int, *, is_initiator: bool) -> Self:
        """A channel to the same peer on the same path, for the successor of the IKE SA (RFC 7296 2.18)."""
        new = type(self)(self._context, own_spi, peer_spi, self.path, is_initiator=is_initiator)
        new.nat, new.forces_udp, new.has_fragments = self.nat, self.forces_udp, self.has_fragments
        return new

    def accept_init(self, peer_spi: int, nat: NatView, *, has_fragments: bool) -> None:
        """The IKE_SA_INIT response is the peer's: what it says of the channel holds from now on."""
        self.window.complete()
        self.peer_spi, self.nat, self.has_fragments = peer_spi, nat, has_fragments
        if nat.is_supported and self.uses_udp:
            self.path = on_natt_port(self.path)

    def restart(self, path: Path) -> None:
        """Begin again on another path, with the first Message ID (RFC 7296 2.1)."""
        self.path = path
        self.window.restart()

    # Out.

    def header(self, exchange: ExchangeType, message_id: int, *, is_response: bool) -> Header:
        """The header of a message of ours."""
        return Header(self.initiator_spi, self.responder_spi, exchange, self.is_initiator, is_response, message_id)

    def request(self, exchange: ExchangeType, payloads: Sequence[Payload]) -> None:
        """Send an encrypted request of ours and keep it until its response comes."""
        self.window.send(exchange, self._seal(exchange, self.window.next_id, payloads, is_response=False))
        self.transmit_request()

    def request_whole(self, exchange: ExchangeType, payloads: Sequence[Payload], *, df: bool = False) -> None:
        """Send an encrypted request in one message, whatever its size."""
        whole = self._seal_whole(exchange, self.window.next_id, payloads, is_response=False)
        self.window.send(exchange, (whole,), df=df)
        self.transmit_request()

    def exchange_request(self, sent: SentRequest, payloads: Sequence[Payload]) -> None:
        """Let another request take the place of the open one under its Message ID, from its next transmission on.

        For requests that have the same effect and response: to a peer that has had the first, the other is a repetition.
        """
        sent.datagrams = (self._seal_whole(sent.exchange, sent.message_id, payloads, is_response=False),)
        sent.df = False

    def request_init(self, message: bytes, *, again: bool) -> None:
        """Send an IKE_SA_INIT request, in place of the one before it where `again`."""
        if again:
            self.window.replace((message,))
        else:
            self.window.send(ExchangeType.IKE_SA_INIT, (message,))
        self.transmit_request()

    def respond(self, exchange: ExchangeType, payloads: Sequence[Payload]) -> None:
        """Answer the peer's accepted request, encrypted."""
        datagrams = self._seal(exchange, self.window.expected_id, payloads, is_response=True)
        self._context.transmit_all(datagrams, self.window.answer(datagrams))

    def respond_init(self, message: bytes) -> None:
        """Answer the peer's IKE_SA_INIT request."""
        self._context.transmit_all((message,), self.window.answer((message,)))

    def transmit_request(self) -> None:
        """Send the open request, for the first time or again, with the same octets."""
        sent = self.window.sent
        if sent is not None:
            self._context.transmit_all(sent.datagrams, self.path, df=sent.df)

    def payload_room(self, datagram: int) -> int:
        """Octets of payloads in one message that fills an IP datagram of `datagram` octets."""
        if self._outgoing is None:
            raise ValueError("IKE SA: nothing can be encrypted before there are keys")
        return message_room(self._outgoing, message_size(self.path, datagram))

    def datagram_size(self, payloads: Sequence[Payload]) -> int:
        """Octets of the IP datagram that carries these payloads, encrypted, in one message."""
        if self._outgoing is None:
            raise ValueError("IKE SA: nothing can be encrypted before there are keys")
        _, chain = emit_chain(payloads)
        return datagram_size(self.path, HEADER_SIZE + SK_HEADER_SIZE + self._outgoing.sealed_size(len(chain)))

    def _seal(
        self, exchange: ExchangeType, message_id: int, payloads: Sequence[Payload], *, is_response: bool
    ) -> tuple[bytes, ...]:
        whole = self._seal_whole(exchange, message_id, payloads, is_response=is_response)
        size = message_size(self.path, self._context.config.fragment_size)
        if len(whole) <= size or not self.has_fragments or self._outgoing is None:
            return (whole,)
        message = Message(self.header(exchange, message_id, is_response=is_response), tuple(payloads))
        return seal_fragments(message, self._outgoing, self._next_iv, size)

    def _seal_whole(
        self, exchange: ExchangeType, message_id: int, payloads: Sequence[Payload], *, is_response: bool
    ) -> bytes:
        if self._outgoing is None:
            raise ValueError("IKE SA: nothing can be encrypted before there are keys")
        message = Message(self.header(exchange, message_id, is_response=is_response), tuple(payloads))
        return message.seal(self._outgoing, self._next_iv())

    def _next_iv(self) -> bytes:
        """Never the same for an AEAD, not to be foreseen for CBC (RFC 7296 3.14, RFC 5282 3.1)."""
        if self.suite is None or not isinstance(self.suite.encryption, Aead):
            return self._context.random(self.suite.encryption.iv if self.suite else 0)
        self._iv += 1
        return self._iv.to_bytes(self.suite.encryption.iv, "big")

    # In.

    def receive(self, header: Header, datagram: bytes, path: Path) -> "Received | None":
        """What a datagram whose SPIs name this IKE SA is; None where there is nothing to act on.

        Nothing changes before it is found to be authentic. Then the window has moved: a request waits for its response,
        or the response to our open request is there.
        """
        if header.is_initiator is self.is_initiator:
            self._context.counts[Count.WRONG_ROLE_FLAG] += 1
            return None
        if header.is_response:
            return self._receive_response(header, datagram)
        arrival = self.window.classify(header.message_id)
        if arrival in _DROPPED:
            self._context.counts[_DROPPED[arrival]] += 1
            return None
        if not self.is_protected:
            return Unread()
        if arrival is Arrival.REPEATED:
            self._answer_again(header, datagram, path)
            return None
        try:
            message = self._open(header, datagram)
        except MalformedMessage as error:
            self.window.accept(path)
            return Malformed(error)
        if message is not None:
            self.window.accept(path)
        return message

    def _receive_response(self, header: Header, datagram: bytes) -> "Received | None":
        if not self.window.is_response_expected(header.message_id, header.exchange):
            self._context.counts[Count.UNEXPECTED_RESPONSE] += 1
            return None
        if header.exchange is ExchangeType.IKE_SA_INIT:
            return Unread()
        try:
            message = self._open(header, datagram)
        except MalformedMessage as error:
            self.window.complete()
            return Malformed(error)
        if message is not None:
            self.window.complete()
        return message

    def _open(self, header: Header, datagram: bytes) -> Message | None:
        """The message in an encrypted datagram, or None where there is nothing to act on (yet).

        Raises `MalformedMessage` only for what an authenticated peer has written.
        """
        counts = self._context.counts
        try:
            message = Message.parse(datagram, header)
        except MalformedMessage:
            counts[Count.MALFORMED] += 1
            return None
        if message.sealed is None or self._incoming is None:
            counts[Count.NOT_PROTECTED] += 1
            return None
        try:
            if not isinstance(message.sealed, EncryptedFragment):
                return message.open(datagram, self._incoming)
            return self._reassemble(message, datagram, self._incoming)
        except BadIcv:
            counts[Count.BAD_ICV] += 1
            return None

    def _reassemble(self, message: Message, datagram: bytes, protection: SkProtection) -> Message | None:
        if not self.has_fragments:
            self._context.counts[Count.FRAGMENT_REFUSED] += 1
            return None
        if self._reassembly is None:
            self._reassembly = {}
        fragments = self._reassembly.setdefault(message.header.is_response, Reassembly())
        try:
            whole = fragments.add(datagram, message, protection, self._context.now)
        except MalformedMessage:
            self._context.counts[Count.FRAGMENT_REFUSED] += 1
            return None
        if whole is not None:
            del self._reassembly[message.header.is_response]
            self._reassembly = self._reassembly or None
        return whole

    def _answer_again(self, header: Header, datagram: bytes, path: Path) -> None:
        """Send the kept response, to a request that is authentic; of a fragmented one the first fragment is enough."""
        self._context.counts[Count.REPEATED_REQUEST] += 1
        kept = self.window.kept
        try:
            message = Message.parse(datagram, header)
            sealed = message.sealed
            if kept is None or sealed is None or self._incoming is None:
                return
            if isinstance(sealed, EncryptedFragment) and sealed.number != 1:
                return  # RFC 7383 2.6.1
            self._incoming.open(datagram[: sealed.offset], sealed.body)
        except BadIcv:
            self._context.counts[Count.BAD_ICV] += 1
            return
        except MalformedMessage:
            self._context.counts[Count.MALFORMED] += 1
            return
        self._context.transmit_all(kept.datagrams, path)
