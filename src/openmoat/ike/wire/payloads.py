"""One dataclass per payload, parse and emit side by side (RFC 7296 3.3 to 3.16). Knows nothing of order, state or keys."""

import ipaddress
from collections.abc import Mapping
from functools import lru_cache
from struct import Struct
from typing import ClassVar, Self

import msgspec

from openmoat.crypto.identities import Identity
from openmoat.crypto.numbers import AuthMethod, IdType, KeMethod
from openmoat.errors import CryptoError
from openmoat.ike.wire.numbers import (
    CertEncoding,
    ConfigKind,
    ConfigType,
    NotifyType,
    PayloadType,
    ProtocolId,
    TsType,
)
from openmoat.ike.wire.proposals import Proposal, emit_proposals, parse_proposals
from openmoat.ike.wire.reader import Layout, Reader, Writer
from openmoat.policy.selectors import Selectors, TrafficSelector

__all__ = [
    "MAX_CONFIG_ATTRIBUTES",
    "MAX_DELETED_SPIS",
    "MAX_NONCE",
    "MAX_NOTIFY_DATA",
    "MAX_TS_SELECTORS",
    "MAX_VENDOR_ID",
    "MIN_NONCE",
    "NONCE_SIZE",
    "Auth",
    "Cert",
    "CertRequest",
    "ConfigAttribute",
    "Configuration",
    "Delete",
    "Eap",
    "Encrypted",
    "EncryptedFragment",
    "IdInitiator",
    "IdResponder",
    "Identification",
    "KeyExchange",
    "Nonce",
    "Notify",
    "Payload",
    "SecurityAssociation",
    "TsInitiator",
    "TsPayload",
    "TsResponder",
    "Unknown",
    "VendorId",
    "parse_payload",
]

NONCE_SIZE = 32
"""Octets of our own: at least half the key size of any PRF (RFC 7296 2.10)."""
MIN_NONCE = 16
"""Octets of the shortest nonce (RFC 7296 3.9)."""
MAX_NONCE = 256
"""Octets of the longest nonce (RFC 7296 3.9)."""
MAX_NOTIFY_DATA = 4096
"""Octets of notification data."""
MAX_VENDOR_ID = 1024
"""Octets of a vendor ID."""
MAX_DELETED_SPIS = 256
"""SPIs one Delete payload may name."""
MAX_TS_SELECTORS = 128
"""Selectors one TS payload may carry."""
MAX_CONFIG_ATTRIBUTES = 128
"""Attributes one configuration payload may carry."""

MAX_REMEMBERED_BODY = 128
"""Octets of a payload that is remembered; longer ones are unusual."""
MAX_REMEMBERED_BODIES = 1024
"""Payloads that are remembered."""

ESP_SPI_SIZE = 4

KE = Layout("HH", "method", "reserved")
NOTIFY = Layout("BBH", "protocol", "SPI size", "type")
SELECTOR = Layout("BBH", "selector type", "IP protocol", "selector length")
PORTS = Layout("HH", "start port", "end port")
NOTIFY_HEAD, SELECTOR_HEAD = Struct(">BBH"), Struct(">BBHHH")
FAMILIES: Mapping[int, tuple[int, int]] = {TsType.IPV4_ADDR_RANGE: (4, 4), TsType.IPV6_ADDR_RANGE: (6, 16)}
"""Kinds of selector that we know: version of IP, and octets of an address."""


class SecurityAssociation(msgspec.Struct, frozen=True, gc=False):
    """SA payload: what is offered, or the one proposal that was chosen (RFC 7296 3.3)."""

    TYPE: ClassVar[PayloadType] = PayloadType.SA
    proposals: tuple[Proposal, ...]

    @classmethod
    def parse(cls, body: Reader) -> Self:
        """At least one proposal."""
        return cls(parse_proposals(body))

    def emit(self) -> bytes:
        """Octets after the generic header."""
        return emit_proposals(self.proposals)


class KeyExchange(msgspec.Struct, frozen=True, gc=False):
    """KE payload (RFC 7296 3.4). The public value is checked where it is used, not here."""

    TYPE: ClassVar[PayloadType] = PayloadType.KE
    method: KeMethod
    public_value: bytes

    @classmethod
    def parse(cls, body: Reader) -> Self:
        """Method, two reserved octets, value."""
        method, _ = body.unpack(KE)
        return cls(KeMethod.of(method), body.rest())

    def emit(self) -> bytes:
        """Octets after the generic header."""
        return self.method.to_bytes(2, "big") + bytes(2) + self.public_value


class Identification(msgspec.Struct, frozen=True, gc=False):
    """IDi or IDr (RFC 7296 3.5). Its `emit()` is what AUTH signs, reserved octets as they came (RFC 7296 2.15)."""

    identity: Identity
    reserved: bytes = bytes(3)

    @classmethod
    def parse(cls, body: Reader) -> Self:
        """Type, three reserved octets, identity; what is well-formed is known to `crypto.identities`."""
        kind = IdType.of(body.u8("identity type"))
        reserved = body.octets("reserved", 3)
        try:
            return cls(Identity.from_wire(kind, body.rest()), reserved)
        except CryptoError as error:
            raise body.fault(str(error)) from None

    def emit(self) -> bytes:
        """Octets after the generic header."""
        return self.identity.type.to_bytes(1, "big") + self.reserved + self.identity.value


class IdInitiator(Identification, frozen=True, gc=False):
    """IDi payload: who the initiator is."""

    TYPE: ClassVar[PayloadType] = PayloadType.ID_I


class IdResponder(Identification, frozen=True, gc=False):
    """IDr payload: who the responder is, or whom the initiator wants."""

    TYPE: ClassVar[PayloadType] = PayloadType.ID_R


class Cert(msgspec.Struct, frozen=True, gc=False):
    """CERT payload (RFC 7296 3.6)."""

    TYPE: ClassVar[PayloadType] = PayloadType.CERT
    encoding: CertEncoding
    octets: bytes

    @classmethod
    def parse(cls, body: Reader) -> Self:
        """Encoding and octets."""
        return cls(CertEncoding.of(body.u8("encoding")), body.rest())

    def emit(self) -> bytes:
        """Octets after the generic header."""
        return self.encoding.to_bytes(1, "big") + self.octets


class CertRequest(msgspec.Struct, frozen=True, gc=False):
    """CERTREQ payload (RFC 7296 3.7): for X.509, SHA-1 hashes of the CAs' public keys, 20 octets each."""

    TYPE: ClassVar[PayloadType] = PayloadType.CERTREQ
    encoding: CertEncoding
    authorities: bytes

    @classmethod
    def parse(cls, body: Reader) -> Self:
        """Encoding and authorities."""
        return cls(CertEncoding.of(body.u8("encoding")), body.rest())

    def emit(self) -> bytes:
        """Octets after the generic header."""
        return self.encoding.to_bytes(1, "big") + self.authorities


class Auth(msgspec.Struct, frozen=True, gc=False):
    """AUTH payload (RFC 7296 3.8)."""

    TYPE: ClassVar[PayloadType] = PayloadType.AUTH
    method: AuthMethod
    octets: bytes

    @classmethod
    def parse(cls, body: Reader) -> Self:
        """Method, three reserved octets, data."""
        method = AuthMethod.of(body.u8("method"))
        body.skip("reserved", 3)
        return cls(method, body.rest())

    def emit(self) -> bytes:
        """Octets after the generic header."""
        return self.method.to_bytes(1, "big") + bytes(3) + self.octets


class Nonce(msgspec.Struct, frozen=True, gc=False):
    """Ni or Nr payload (RFC 7296 3.9)."""

    TYPE: ClassVar[PayloadType] = PayloadType.NONCE
    octets: bytes

    @classmethod
    def parse(cls, body: Reader) -> Self:
        """`MIN_NONCE` to `MAX_NONCE` octets."""
        if not MIN_NONCE <= body.left <= MAX_NONCE:
            raise body.fault(f"nonce: {MIN_NONCE} to {MAX_NONCE} octets, not {body.left}")
        return cls(body.rest())

    def emit(self) -> bytes:
        """Octets after the generic header."""
        return self.octets


class Notify(msgspec.Struct, frozen=True, gc=False):
    """N payload (RFC 7296 3.10)."""

    TYPE: ClassVar[PayloadType] = PayloadType.NOTIFY
    type: NotifyType
    data: bytes = b""
    protocol: ProtocolId = ProtocolId.NONE
    spi: bytes = b""
    """SPI it is about, with its protocol; empty where it is about none."""

    @classmethod
    def parse(cls, body: Reader) -> Self:
        """Protocol, SPI size, type, SPI, data. What an unknown type carries is nobody's business here."""
        protocol, spi_size, kind = body.unpack(NOTIFY)
        spi = body.octets("SPI", spi_size) if spi_size else b""
        if body.left > MAX_NOTIFY_DATA:
            raise body.fault(f"data: at most {MAX_NOTIFY_DATA} octets, not {body.left}")
        return cls(NotifyType.of(kind), body.rest(), ProtocolId.of(protocol), spi)

    def emit(self) -> bytes:
        """Octets after the generic header."""
        return NOTIFY_HEAD.pack(self.protocol, len(self.spi), self.type) + self.spi + self.data


class Delete(msgspec.Struct, frozen=True, gc=False):
    """D payload (RFC 7296 3.11). SPIs are the sender's inbound ones; an IKE SA is deleted without naming any."""

    TYPE: ClassVar[PayloadType] = PayloadType.DELETE
    protocol: ProtocolId
    spis: tuple[int, ...] = ()
    spi_size: int = ESP_SPI_SIZE

    @classmethod
    def ike(cls) -> Self:
        """Delete the IKE SA that carries it."""
        return cls(ProtocolId.IKE, (), 0)

    @classmethod
    def parse(cls, body: Reader) -> Self:
        """Protocol, SPI size, count, SPIs. The three must agree to the octet."""
        protocol = ProtocolId(body.u8("protocol"))
        size = body.u8("SPI size")
        count = body.u16("number of SPIs")
        if protocol is ProtocolId.IKE and (size or count):
            raise body.fault(f"an IKE SA is deleted without SPI, not with {count} of {size} octets")
        if protocol in {ProtocolId.ESP, ProtocolId.AH} and size != ESP_SPI_SIZE:
            raise body.fault(f"SPI size: {ESP_SPI_SIZE} octets, not {size}")
        if count > MAX_DELETED_SPIS:
            raise body.fault(f"at most {MAX_DELETED_SPIS} SPIs, not {count}")
        spis = tuple(int.from_bytes(body.octets("SPI", size), "big") for _ in range(count))
        body.end()
        return cls(protocol, spis, size)

    def emit(self) -> bytes:
        """Octets after the generic header."""
        writer = Writer().octets(bytes((self.protocol, self.spi_size))).uint(2, len(self.spis))
        for spi in self.spis:
            writer.uint(self.spi_size, spi)
        return writer.join()


class VendorId(msgspec.Struct, frozen=True, gc=False):
    """V payload (RFC 7296 3.12)."""

    TYPE: ClassVar[PayloadType] = PayloadType.VENDOR_ID
    octets: bytes

    @classmethod
    def parse(cls, body: Reader) -> Self:
        """Up to `MAX_VENDOR_ID` octets."""
        if body.left > MAX_VENDOR_ID:
            raise body.fault(f"at most {MAX_VENDOR_ID} octets, not {body.left}")
        return cls(body.rest())

    def emit(self) -> bytes:
        """Octets after the generic header."""
        return self.octets


class TsPayload(msgspec.Struct, frozen=True, gc=False):
    """TSi or TSr (RFC 7296 3.13). Empty after parsing where all selectors were of kinds we do not know."""

    selectors: Selectors

    @classmethod
    def parse(cls, body: Reader) -> Self:
        """One to `MAX_TS_SELECTORS` selectors; those of unknown kind are passed over."""
        count = body.u8("number of selectors")
        body.skip("reserved", 3)
        if not 1 <= count <= MAX_TS_SELECTORS:
            raise body.fault(f"1 to {MAX_TS_SELECTORS} selectors, not {count}")
        found = [parse_selector(body) for _ in range(count)]
        body.end()
        return cls(tuple(selector for selector in found if selector is not None))

    def emit(self) -> bytes:
        """Octets after the generic header."""
        if not 1 <= len(self.selectors) <= MAX_TS_SELECTORS:
            raise ValueError(f"TS: 1 to {MAX_TS_SELECTORS} selectors, not {len(self.selectors)}")
        head = bytes((len(self.selectors), 0, 0, 0))
        return head + b"".join(emit_selector(selector) for selector in self.selectors)


class TsInitiator(TsPayload, frozen=True, gc=False):
    """TSi payload: sources as the initiator of the exchange sees them."""

    TYPE: ClassVar[PayloadType] = PayloadType.TS_I


class TsResponder(TsPayload, frozen=True, gc=False):
    """TSr payload: destinations as the initiator of the exchange sees them."""

    TYPE: ClassVar[PayloadType] = PayloadType.TS_R


def parse_selector(body: Reader) -> TrafficSelector | None:
    """One traffic selector (RFC 7296 3.13.1); None for a kind we do not know."""
    kind, protocol, length = body.unpack(SELECTOR)
    if length < 4:
        raise body.fault(f"selector length: at least 4, not {length}")
    inside = body.within("selector", length - 4, "TS: selector")
    if kind not in FAMILIES:
        return None
    start_port, end_port = inside.unpack(PORTS)
    # OPAQUE is the one range that runs backwards (RFC 7296 3.13.1).
    if start_port > end_port and (start_port, end_port) != (65535, 0):
        raise inside.fault(f"ports run from {start_port} to {end_port}")
    version, size = FAMILIES[kind]
    ends = inside.octets("start address", size), inside.octets("end address", size)
    inside.end()
    if ends[0] > ends[1]:
        start, end = map(ipaddress.ip_address, ends)
        raise inside.fault(f"addresses run from {start} to {end}")
    first, last = int.from_bytes(ends[0], "big"), int.from_bytes(ends[1], "big")
    return TrafficSelector(version, first, last, protocol, start_port, end_port)


def emit_selector(selector: TrafficSelector) -> bytes:
    """One traffic selector (RFC 7296 3.13.1)."""
    kind = TsType.IPV4_ADDR_RANGE if selector.version == 4 else TsType.IPV6_ADDR_RANGE
    ends = b"".join(selector.packed)
    return SELECTOR_HEAD.pack(kind, selector.protocol, 8 + len(ends), selector.start_port, selector.end_port) + ends


class ConfigAttribute(msgspec.Struct, frozen=True, gc=False):
    """One configuration attribute (RFC 7296 3.15.1); its value is read where the type is known."""

    type: ConfigType
    value: bytes = b""


class Configuration(msgspec.Struct, frozen=True, gc=False):
    """CP payload (RFC 7296 3.15)."""

    TYPE: ClassVar[PayloadType] = PayloadType.CP
    kind: ConfigKind
    attributes: tuple[ConfigAttribute, ...] = ()

    @classmethod
    def parse(cls, body: Reader) -> Self:
        """Kind, three reserved octets, up to `MAX_CONFIG_ATTRIBUTES` attributes."""
        kind = ConfigKind(body.u8("kind"))
        body.skip("reserved", 3)
        attributes: list[ConfigAttribute] = []
        while body.left:
            if len(attributes) == MAX_CONFIG_ATTRIBUTES:
                raise body.fault(f"at most {MAX_CONFIG_ATTRIBUTES} attributes; there are more")
            number = body.u16("attribute type") & 0x7FFF
            attributes.append(ConfigAttribute(ConfigType(number), body.octets("value", body.u16("attribute length"))))
        return cls(kind, tuple(attributes))

    def emit(self) -> bytes:
        """Octets after the generic header."""
        writer = Writer().octets(bytes((self.kind, 0, 0, 0)))
        for attribute in self.attributes:
            writer.uint(2, attribute.type).uint(2, len(attribute.value)).octets(attribute.value)
        return writer.join()


class Eap(msgspec.Struct, frozen=True, gc=False):
    """EAP payload: one opaque EAP message (RFC 7296 3.16)."""

    TYPE: ClassVar[PayloadType] = PayloadType.EAP
    octets: bytes

    @classmethod
    def parse(cls, body: Reader) -> Self:
        """All of it."""
        return cls(body.rest())

    def emit(self) -> bytes:
        """Octets after the generic header."""
        return self.octets


class Encrypted(msgspec.Struct, frozen=True, gc=False):
    """SK payload, still sealed; always the last of its message (RFC 7296 3.14)."""

    TYPE: ClassVar[PayloadType] = PayloadType.SK
    body: bytes
    """IV, ciphertext, ICV."""
    first: PayloadType
    """Type of the first payload inside: SK has no successor, so its Next Payload field says this."""
    offset: int
    """Octets of the message before `body`: all of them are authenticated."""


class EncryptedFragment(msgspec.Struct, frozen=True, gc=False):
    """SKF payload, still sealed (RFC 7383 2.5)."""

    TYPE: ClassVar[PayloadType] = PayloadType.SKF
    body: bytes
    """IV, ciphertext, ICV: what follows the two numbers."""
    first: PayloadType
    """Type of the first payload of the whole message in fragment 1, else NONE."""
    offset: int
    """Octets of the message before `body`, the two numbers included: all of them are authenticated."""
    number: int
    total: int


class Unknown(msgspec.Struct, frozen=True, gc=False):
    """A payload of a type we do not know; refused where it is critical, else passed over (RFC 7296 2.5)."""

    TYPE: PayloadType
    is_critical: bool
    octets: bytes

    def emit(self) -> bytes:
        """Octets after the generic header."""
        return self.octets


Clear = (
    SecurityAssociation
    | KeyExchange
    | IdInitiator
    | IdResponder
    | Cert
    | CertRequest
    | Auth
    | Nonce
    | Notify
    | Delete
    | VendorId
    | TsInitiator
    | TsResponder
    | Configuration
    | Eap
)
Payload = Clear | Unknown

CLASSES: dict[int, type[Clear]] = {
    int(cls.TYPE): cls
    for cls in (
        SecurityAssociation,
        KeyExchange,
        IdInitiator,
        IdResponder,
        Cert,
        CertRequest,
        Auth,
        Nonce,
        Notify,
        Delete,
        VendorId,
        TsInitiator,
        TsResponder,
        Configuration,
        Eap,
    )
}
NAMES = {number: cls.TYPE.name for number, cls in CLASSES.items()}
COMMON = frozenset(
    map(int, (PayloadType.SA, PayloadType.ID_R, PayloadType.CERTREQ, PayloadType.TS_I, PayloadType.TS_R))
)
"""What many peers say in the same words: their algorithms, whom they want, our networks."""


def parse_payload(number: int, is_critical: bool, buffer: bytes, start: int, end: int) -> Payload:
    """The payload of type `number` whose body is `buffer[start:end]`. Known types ignore the critical bit."""
    cls = CLASSES.get(number)
    if cls is None:
        return Unknown(PayloadType(number), is_critical, buffer[start:end])
    if number in COMMON and end - start <= MAX_REMEMBERED_BODY:
        return parse_common(number, buffer[start:end])
    return cls.parse(Reader(buffer, NAMES[number], start, end))


@lru_cache(maxsize=MAX_REMEMBERED_BODIES)
def parse_common(number: int, body: bytes) -> Clear:
    """The payload of a known type with these octets: one object, however many peers send it."""
    return CLASSES[number].parse(Reader(body, NAMES[number]))
