"""Proposals and transforms on the wire (RFC 7296 3.3)."""

from functools import lru_cache
from struct import Struct
from typing import Self

import msgspec

from openmoat.ike.errors import MalformedMessage
from openmoat.ike.wire.numbers import ProtocolId, TransformType
from openmoat.ike.wire.reader import Layout, Reader

__all__ = [
    "MAX_ATTRIBUTES",
    "MAX_PROPOSALS",
    "MAX_TRANSFORMS",
    "SPI_SIZES",
    "Proposal",
    "Transform",
    "emit_proposals",
    "parse_proposals",
]

MAX_PROPOSALS = 64
"""Proposals in one SA payload."""
MAX_TRANSFORMS = 255
"""Transforms in one proposal: what its one octet can count (RFC 7296 3.3.1)."""
MAX_ATTRIBUTES = 8
"""Attributes of one transform; one is defined."""

MAX_REMEMBERED = 256
"""Octets of a list of transforms that is remembered; longer ones are unusual."""
MAX_REMEMBERED_LISTS = 256
"""Lists of transforms that are remembered."""

KEY_LENGTH = 14
SHORT_ATTRIBUTE = 0x8000
LAST, MORE_PROPOSALS, MORE_TRANSFORMS = 0, 2, 3
HEAD = Struct(">BxH")
PROPOSAL_HEAD = Layout("BBH", "last proposal", "reserved", "proposal length")
TRANSFORM_HEAD = Layout("BBH", "last transform", "reserved", "transform length")
PROPOSAL = Layout("BBBB", "proposal number", "protocol", "SPI size", "number of transforms")
TRANSFORM = Layout("BBH", "transform type", "reserved", "transform id")

SPI_SIZES = {ProtocolId.IKE: (0, 8), ProtocolId.AH: (4,), ProtocolId.ESP: (4,)}
"""SPI octets a proposal may carry; an IKE SA has none in IKE_SA_INIT (RFC 7296 3.3.1)."""


class Transform(msgspec.Struct, frozen=True, gc=False):
    """One transform: an algorithm of one type (RFC 7296 3.3.2)."""

    type: TransformType
    id: int
    key_bits: int | None = None
    """Key Length attribute (RFC 7296 3.3.5)."""
    foreign: bytes = b""
    """Attributes we do not understand, as they came: this transform must not be chosen (RFC 7296 3.3.6)."""

    @classmethod
    def parse(cls, body: Reader) -> Self:
        """From the octets after the transform length."""
        kind_number, _, number = body.unpack(TRANSFORM)
        kind = TransformType.of(kind_number)
        if not body.left:
            return cls(kind, number)
        key_bits: int | None = None
        foreign: list[bytes] = []
        count = 0
        while body.left:
            count += 1
            if count > MAX_ATTRIBUTES:
                raise body.fault(f"at most {MAX_ATTRIBUTES} attributes; there are more")
            kind_octets = body.octets("attribute type", 2)
            attribute = int.from_bytes(kind_octets, "big")
            value = body.octets("attribute value or length", 2)
            if attribute == SHORT_ATTRIBUTE | KEY_LENGTH and key_bits is None and not foreign:
                key_bits = int.from_bytes(value, "big")
                continue
            foreign.append(kind_octets + value)
            if not attribute & SHORT_ATTRIBUTE:
                foreign.append(body.octets("attribute value", int.from_bytes(value, "big")))
        return cls(kind, number, key_bits, b"".join(foreign))

    def emit(self) -> bytes:
        """Octets after the transform length."""
        head = bytes((self.type, 0)) + self.id.to_bytes(2, "big")
        if self.key_bits is not None:
            head += (SHORT_ATTRIBUTE | KEY_LENGTH).to_bytes(2, "big") + self.key_bits.to_bytes(2, "big")
        return head + self.foreign


class Proposal(msgspec.Struct, frozen=True, gc=False):
    """One proposal: a protocol, its SPI and the transforms to choose from (RFC 7296 3.3.1)."""

    number: int
    protocol: ProtocolId
    spi: bytes
    """Empty for an IKE SA in IKE_SA_INIT, 8 octets when it is rekeyed, 4 for ESP."""
    transforms: tuple[Transform, ...]

    @classmethod
    def parse(cls, body: Reader) -> Self:
        """From the octets after the proposal length."""
        number, protocol_number, spi_size, count = body.unpack(PROPOSAL)
        protocol = ProtocolId.of(protocol_number)
        if protocol in SPI_SIZES and spi_size not in SPI_SIZES[protocol]:
            raise body.fault(f"SPI of {protocol.name}: {SPI_SIZES[protocol]} octets, not {spi_size}")
        spi = body.octets("SPI", spi_size)
        octets = body.rest()
        parse = parse_transforms_again if len(octets) <= MAX_REMEMBERED else parse_transforms
        return cls(number, protocol, spi, parse(octets, count))

    def emit(self) -> bytes:
        """Octets after the proposal length."""
        if len(self.transforms) > MAX_TRANSFORMS:
            raise ValueError(f"a proposal holds at most {MAX_TRANSFORMS} transforms, not {len(self.transforms)}")
        head = bytes((self.number, self.protocol, len(self.spi), len(self.transforms)))
        return head + self.spi + emit_transforms(self.transforms)


def parse_transforms(octets: bytes, count: int) -> tuple[Transform, ...]:
    """What follows the SPI of a proposal."""
    body = Reader(octets, "SA: proposal")
    transforms: list[Transform] = []
    for index in range(count):
        marker, _, length = body.unpack(TRANSFORM_HEAD)
        if marker != (LAST if index == count - 1 else MORE_TRANSFORMS):
            raise body.fault(f"transform {index + 1} of {count}: last-substructure is {marker}")
        transforms.append(Transform.parse(substructure(body, "transform", length)))
    body.end()
    return tuple(transforms)


# Peers offer the same algorithms again and again, and we answer with the same: a quarter of the work of a handshake's
# messages would be to take them apart and put them together.
parse_transforms_again = lru_cache(maxsize=MAX_REMEMBERED_LISTS)(parse_transforms)


@lru_cache(maxsize=MAX_REMEMBERED_LISTS)
def emit_transforms(transforms: tuple[Transform, ...]) -> bytes:
    """What follows the SPI of a proposal."""
    return emit_substructures([transform.emit() for transform in transforms], MORE_TRANSFORMS)


def substructure(body: Reader, what: str, length: int) -> Reader:
    """The inside of a proposal or transform of that length, which is counted from its first octet."""
    if length < 4:
        raise body.fault(f"{what} length: at least 4, not {length}")
    return body.within(what, length - 4, f"SA: {what}")


def emit_substructures(bodies: list[bytes], more: int) -> bytes:
    """Bodies with their headers: more-follows octet, reserved, length."""
    markers = ([more] * len(bodies))[1:] + [LAST] * bool(bodies)
    return b"".join(HEAD.pack(marker, len(body) + 4) + body for marker, body in zip(markers, bodies, strict=True))


def parse_proposals(body: Reader) -> tuple[Proposal, ...]:
    """The body of an SA payload. Numbers go up by one from whatever the first is (RFC 7296 3.3.1)."""
    proposals: list[Proposal] = []
    marker = MORE_PROPOSALS
    while marker == MORE_PROPOSALS:
        if len(proposals) == MAX_PROPOSALS:
            raise body.fault(f"at most {MAX_PROPOSALS} proposals; there are more")
        marker, _, length = body.unpack(PROPOSAL_HEAD)
        if marker not in {LAST, MORE_PROPOSALS}:
            raise body.fault(f"last-substructure of a proposal is 0 or 2, not {marker}")
        proposal = Proposal.parse(substructure(body, "proposal", length))
        if proposals and proposal.number != proposals[-1].number + 1:
            raise MalformedMessage(f"SA: proposal {proposal.number} cannot follow proposal {proposals[-1].number}")
        proposals.append(proposal)
    body.end()
    return tuple(proposals)


def emit_proposals(proposals: tuple[Proposal, ...]) -> bytes:
    """The body of an SA payload."""
    return emit_substructures([proposal.emit() for proposal in proposals], MORE_PROPOSALS)
