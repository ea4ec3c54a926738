"""The IKE header, the chain of payloads, and the sealing of both (RFC 7296 3.1, 3.2, 3.14). Knows no state.

A datagram is read in steps, each only as far as it is worth: `Header.parse` to find the IKE SA, `Message.parse` for the
clear payloads, `Message.open` for what SK holds once there are keys.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Protocol, Self, TypeVar

import msgspec

from openmoat.ike.errors import MalformedMessage, UnsupportedVersion
from openmoat.ike.wire.numbers import ExchangeType, NotifyType, PayloadType
from openmoat.ike.wire.payloads import Clear, Encrypted, EncryptedFragment, Notify, Payload, Unknown, parse_payload

__all__ = [
    "HEADER_SIZE",
    "MAX_MESSAGE",
    "MAX_PAYLOADS",
    "SK_HEADER_SIZE",
    "Header",
    "Message",
    "Opener",
    "Sealer",
    "emit_chain",
    "outside",
    "parse_inside",
]

HEADER_SIZE = 28
SK_HEADER_SIZE = 4
"""Octets of the generic payload header, that of SK included (RFC 7296 3.2)."""
MAX_PAYLOADS = 64
"""Payloads in one message, inside or outside of SK."""
MAX_MESSAGE = 65_535
"""Octets of a whole message that we seal; `fragments.MAX_REASSEMBLED` bounds what the peer may make us keep."""

HEADER = Struct(">QQBBBBII")
GENERIC = Struct(">BBH")
SKF_NUMBERS = Struct(">HH")
MAJOR, MINOR = 2, 0
FLAG_RESPONSE, FLAG_INITIATOR = 0x20, 0x08
CRITICAL = 0x80
LAST_IKEV1_PAYLOAD = 32
"""Payload types 1 to 32 belong to IKEv1 and never occur in IKEv2 (RFC 7296 3.2)."""

SK, SKF, NONE = PayloadType.SK.value, PayloadType.SKF.value, PayloadType.NONE.value
Wanted = TypeVar("Wanted", bound=Clear)


class Sealer(Protocol):
    """What seals SK payloads: `crypto.protection.SkProtection` with the keys of our direction."""

    @property
    def iv_size(self) -> int:
        """Octets of IV."""
        ...

    def sealed_size(self, plaintext_size: int) -> int:
        """Octets that `seal` gives for so many octets of plaintext."""
        ...

    def seal(self, associated: bytes, plaintext: bytes, iv: bytes) -> bytes:
        """IV, ciphertext and ICV."""
        ...


class Opener(Protocol):
    """What opens SK payloads: `crypto.protection.SkProtection` with the keys of the peer's direction."""

    def open(self, associated: bytes, body: bytes) -> bytes:
        """The plaintext without padding; raises `BadIcv`."""
        ...


class Header(msgspec.Struct, frozen=True, gc=False):
    """The IKE header without what follows from the rest of the message: Next Payload and Length (RFC 7296 3.1)."""

    initiator_spi: int
    responder_spi: int
    """0 in the first message of IKE_SA_INIT."""
    exchange: ExchangeType
    is_initiator: bool
    """Sent by the original initiator of the IKE SA."""
    is_response: bool
    message_id: int
    major: int = MAJOR

    @classmethod
    def parse(cls, datagram: bytes) -> Self:
        """The first 28 octets of a datagram that must be one whole message of any version from 2 on."""
        if len(datagram) < HEADER_SIZE:
            raise MalformedMessage(f"header: needs {HEADER_SIZE} octets, not {len(datagram)}")
        initiator, responder, _, version, exchange, flags, message_id, length = HEADER.unpack_from(datagram)
        if version >> 4 < MAJOR:
            raise MalformedMessage(f"header: major version {MAJOR} or above, not {version >> 4}")
        if length != len(datagram):
            raise MalformedMessage(f"header: the length field says {length} octets, the datagram has {len(datagram)}")
        if not initiator:
            raise MalformedMessage("header: the initiator's SPI must not be 0")
        return cls(
            initiator,
            responder,
            ExchangeType.of(exchange),
            bool(flags & FLAG_INITIATOR),
            bool(flags & FLAG_RESPONSE),
            message_id,
            version >> 4,
        )

    def emit(self, first: PayloadType, length: int) -> bytes:
        """28 octets, for a message of `length` octets in all."""
        flags = (FLAG_INITIATOR if self.is_initiator else 0) | (FLAG_RESPONSE if self.is_response else 0)
        version = self.major << 4 | MINOR
        return HEADER.pack(
            self.initiator_spi, self.responder_spi, first, version, self.exchange, flags, self.message_id, length
        )


class Message(msgspec.Struct, frozen=True, gc=False):
    """One IKE message: its unencrypted payloads, or after `open` those inside SK."""

    header: Header
    payloads: tuple[Payload, ...]
    sealed: Encrypted | EncryptedFragment | None = None
    """The last payload, where it is SK or SKF and not opened yet."""
    is_protected: bool = False
    """The payloads were inside SK, and its ICV was good."""

    @classmethod
    def parse(cls, datagram: bytes, header: Header | None = None) -> Self:
        """All unencrypted payloads, up to an SK or SKF. Raises `MalformedMessage`, `UnsupportedVersion`."""
        header = header or Header.parse(datagram)
        if header.major != MAJOR:
            raise UnsupportedVersion(f"header: major version {MAJOR}, not {header.major}", bytes((MAJOR << 4,)))
        payloads, sealed = parse_chain(datagram, datagram[16], HEADER_SIZE)
        return cls(header, payloads, sealed)

    def emit(self) -> bytes:
        """The whole message unencrypted, as IKE_SA_INIT travels."""
        first, chain = emit_chain(self.payloads)
        return self.header.emit(first, HEADER_SIZE + len(chain)) + chain

    def seal(self, protection: Sealer, iv: bytes) -> bytes:
        """The whole message with all payloads in one SK (RFC 7296 3.14)."""
        first, chain = emit_chain(self.payloads)
        size = protection.sealed_size(len(chain))
        length = HEADER_SIZE + SK_HEADER_SIZE + size
        if length > MAX_MESSAGE:
            raise ValueError(f"a message has at most {MAX_MESSAGE} octets, not {length}")
        associated = self.header.emit(PayloadType.SK, length) + GENERIC.pack(first, 0, SK_HEADER_SIZE + size)
        return associated + protection.seal(associated, chain, iv)

    def open(self, datagram: bytes, protection: Opener) -> "Message":
        """The message inside the SK of `datagram`, from which this one was parsed.

        Raises `BadIcv`, or `MalformedMessage` where the ICV is good and the inside is not.
        """
        if not isinstance(self.sealed, Encrypted):
            raise MalformedMessage("message: an SK payload must be there")
        inside = protection.open(datagram[: self.sealed.offset], self.sealed.body)
        return Message(self.header, outside(self) + parse_inside(self.sealed.first, inside), is_protected=True)

    def first(self, kind: type[Wanted]) -> Wanted | None:
        """The first payload of this class."""
        for payload in self.payloads:
            if type(payload) is kind:
                return payload
        return None

    def every(self, kind: type[Wanted]) -> tuple[Wanted, ...]:
        """All payloads of this class, in order."""
        return tuple(payload for payload in self.payloads if type(payload) is kind)

    def notify(self, kind: NotifyType) -> Notify | None:
        """The first notify of this type."""
        for payload in self.payloads:
            if type(payload) is Notify and payload.type == kind:
                return payload
        return None

    def error(self) -> Notify | None:
        """The first notify that reports an error, of a type we know or not (RFC 7296 3.10.1)."""
        for payload in self.payloads:
            if type(payload) is Notify and payload.type.is_error:
                return payload
        return None


def message_room(protection: Sealer, size: int) -> int:
    """Octets of payloads in a sealed message of at most `size` octets; padding makes it a search of a few steps."""
    room = size - HEADER_SIZE - SK_HEADER_SIZE - protection.iv_size
    while room > 0 and HEADER_SIZE + SK_HEADER_SIZE + protection.sealed_size(room) > size:
        room -= 1
    return max(room, 0)


def outside(message: Message) -> tuple[Payload, ...]:
    """Unknown payloads before SK, one of which may be critical; known ones belong inside (RFC 7296 appendix C)."""
    for payload in message.payloads:
        if type(payload) is not Unknown:
            raise MalformedMessage(f"{payload.TYPE.name}: must stand inside the encrypted payload")
    return message.payloads


def parse_inside(first: PayloadType, plaintext: bytes) -> tuple[Payload, ...]:
    """The payloads of an opened SK, or of a message put together from fragments."""
    payloads, sealed = parse_chain(plaintext, int(first), 0)
    if sealed is not None:
        raise MalformedMessage(f"{sealed.TYPE.name}: cannot stand inside an encrypted payload")
    return payloads


def parse_chain(
    buffer: bytes, kind: int, position: int
) -> tuple[tuple[Payload, ...], Encrypted | EncryptedFragment | None]:
    """Payloads from `position` to the end, the first of type `kind`, each naming the next (RFC 7296 3.2)."""
    payloads: list[Payload] = []
    end = len(buffer)
    while kind != NONE:
        if len(payloads) == MAX_PAYLOADS:
            raise MalformedMessage(f"message: at most {MAX_PAYLOADS} payloads; there are more")
        if kind <= LAST_IKEV1_PAYLOAD:
            raise MalformedMessage(f"message: payload type {kind} belongs to IKEv1")
        if position + 4 > end:
            raise MalformedMessage(f"{name(kind)}: header needs 4 octets, {end - position} left")
        following, flags, length = GENERIC.unpack_from(buffer, position)
        if length < 4 or position + length > end:
            raise MalformedMessage(f"{name(kind)}: length says {length} octets, {end - position} left")
        if kind in {SK, SKF}:
            return tuple(payloads), parse_sealed(kind, buffer, position, length, PayloadType.of(following))
        payloads.append(parse_payload(kind, bool(flags & CRITICAL), buffer, position + 4, position + length))
        kind = following
        position += length
    if position != end:
        raise MalformedMessage(f"message: nothing may follow the last payload, {end - position} octets do")
    return tuple(payloads), None


def parse_sealed(
    kind: int, buffer: bytes, position: int, length: int, first: PayloadType
) -> Encrypted | EncryptedFragment:
    """SK or SKF, which must be the last payload of its message (RFC 7296 3.14, RFC 7383 2.5)."""
    end = position + length
    if end != len(buffer):
        raise MalformedMessage(f"{name(kind)}: must be the last payload, {len(buffer) - end} octets follow")
    if kind == SK:
        return Encrypted(buffer[position + 4 :], first, position + 4)
    if length < 8:
        raise MalformedMessage(f"SKF: needs 8 octets, not {length}")
    number, total = SKF_NUMBERS.unpack_from(buffer, position + 4)
    if not 1 <= number <= total:
        raise MalformedMessage(f"SKF: fragment {number} of {total} cannot be")
    return EncryptedFragment(buffer[position + 8 :], first, position + 8, number, total)


def emit_chain(payloads: Sequence[Payload]) -> tuple[PayloadType, bytes]:
    """Type of the first payload, and all of them with their headers."""
    if len(payloads) > MAX_PAYLOADS:
        raise ValueError(f"a message holds at most {MAX_PAYLOADS} payloads, not {len(payloads)}")
    parts: list[bytes] = []
    following = PayloadType.NONE
    for payload in reversed(payloads):
        body = payload.emit()
        flags = CRITICAL if type(payload) is Unknown and payload.is_critical else 0
        parts.append(GENERIC.pack(following, flags, len(body) + 4) + body)
        following = payload.TYPE
    return following, b"".join(reversed(parts))


def name(kind: int) -> str:
    """A payload type for people."""
    return PayloadType(kind).name
