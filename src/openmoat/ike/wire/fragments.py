"""IKE fragmentation: split a message over several SKF payloads, and put it together again within bounds (RFC 7383)."""

from collections.abc import Callable, Mapping
from struct import Struct

from openmoat.ike.errors import MalformedMessage
from openmoat.ike.wire.message import HEADER_SIZE, Message, Opener, Sealer, emit_chain, outside, parse_inside
from openmoat.ike.wire.numbers import PayloadType
from openmoat.ike.wire.payloads import EncryptedFragment
from openmoat.net import IKE_PORT, Path

__all__ = [
    "MAX_FRAGMENTS",
    "MAX_REASSEMBLED",
    "REASSEMBLY_SECONDS",
    "Reassembly",
    "datagram_size",
    "message_size",
    "plaintext_room",
    "seal_fragments",
]

MAX_FRAGMENTS = 64
"""Fragments of one message."""
MAX_REASSEMBLED = 65_535
"""Octets of all plaintexts of one message."""
REASSEMBLY_SECONDS = 30.0
"""Time from the first fragment of a message after which those so far are forgotten."""

SKF_HEADER = Struct(">BBHHH")
SKF_HEADER_SIZE = 8
IP_HEADER: Mapping[int, int] = {4: 20, 6: 40}
UDP_HEADER = 8
NON_ESP_MARKER = 4


def message_size(path: Path, datagram: int) -> int:
    """Octets of the IKE message in an IP datagram of `datagram` octets on this path (RFC 3948 2.2 for the marker)."""
    marker = 0 if path.local.port == IKE_PORT else NON_ESP_MARKER
    return datagram - IP_HEADER[path.local.address.version] - UDP_HEADER - marker


def datagram_size(path: Path, message: int) -> int:
    """Octets of the IP datagram that carries an IKE message of `message` octets on this path."""
    return message - message_size(path, 0)


def seal_fragments(message: Message, protection: Sealer, next_iv: Callable[[], bytes], size: int) -> tuple[bytes, ...]:
    """The message as fragments of at most `size` octets each, in order (RFC 7383 2.5)."""
    first, chain = emit_chain(message.payloads)
    room = plaintext_room(protection, size)
    pieces = [chain[start : start + room] for start in range(0, len(chain), room)] or [b""]
    if len(pieces) > MAX_FRAGMENTS:
        raise ValueError(f"a message of {len(chain)} octets makes {len(pieces)} fragments, more than {MAX_FRAGMENTS}")
    datagrams: list[bytes] = []
    for number, piece in enumerate(pieces, 1):
        length = SKF_HEADER_SIZE + protection.sealed_size(len(piece))
        # Next Payload names the first payload of the whole message in fragment 1, and is 0 in the others (2.5).
        following = first if number == 1 else PayloadType.NONE
        associated = message.header.emit(PayloadType.SKF, HEADER_SIZE + length)
        associated += SKF_HEADER.pack(following, 0, length, number, len(pieces))
        datagrams.append(associated + protection.seal(associated, piece, next_iv()))
    return tuple(datagrams)


def plaintext_room(protection: Sealer, size: int) -> int:
    """Octets of plaintext that fit a fragment of `size` octets; padding makes it a search of a few steps."""
    room = size - HEADER_SIZE - SKF_HEADER_SIZE - protection.iv_size
    while room > 0 and HEADER_SIZE + SKF_HEADER_SIZE + protection.sealed_size(room) > size:
        room -= 1
    if room <= 0:
        raise ValueError(f"a fragment of {size} octets has no room for plaintext")
    return room


class Reassembly:
    """Fragments of one message at a time: an IKE SA has one for requests and one for responses.

    The caller has found the Message ID to be one it waits for. What does not belong together is dropped, the newer wins.
    """

    __slots__ = ("_deadline", "_first", "_message_id", "_octets", "_pieces", "_total")

    def __init__(self) -> None:
        self._restart(-1, 0, 0.0)

    def _restart(self, message_id: int, total: int, now: float) -> None:
        self._message_id = message_id
        self._total = total
        self._deadline = now + REASSEMBLY_SECONDS
        self._pieces: dict[int, bytes] = {}
        self._octets = 0
        self._first = PayloadType.NONE

    @property
    def octets(self) -> int:
        """Octets held."""
        return self._octets

    def add(self, datagram: bytes, message: Message, protection: Opener, now: float) -> Message | None:
        """The whole message with the last missing fragment, else None (RFC 7383 2.6).

        Nothing is opened that is not needed, and nothing is changed before the ICV is good. Raises `BadIcv`, or
        `MalformedMessage` for a message beyond the bounds, or whose inside does not parse.
        """
        sealed = message.sealed
        if not isinstance(sealed, EncryptedFragment):
            raise MalformedMessage("message: an SKF payload must be there")
        if sealed.total > MAX_FRAGMENTS:
            raise MalformedMessage(f"SKF: at most {MAX_FRAGMENTS} fragments, {sealed.total} announced")
        is_new = message.header.message_id != self._message_id or now >= self._deadline or not self._pieces
        if not is_new and (
            sealed.total < self._total or (sealed.total == self._total and sealed.number in self._pieces)
        ):
            return None
        plaintext = protection.open(datagram[: sealed.offset], sealed.body)
        # RFC 7383 2.6.1: a greater total means that the peer now sends smaller fragments; those before are void.
        if is_new or sealed.total > self._total:
            self._restart(message.header.message_id, sealed.total, now)
        if self._octets + len(plaintext) > MAX_REASSEMBLED:
            raise MalformedMessage(f"SKF: at most {MAX_REASSEMBLED} octets in all; there are more")
        self._pieces[sealed.number] = plaintext
        self._octets += len(plaintext)
        if sealed.number == 1:
            self._first = sealed.first
        if len(self._pieces) < self._total:
            return None
        whole = b"".join(self._pieces[number] for number in range(1, self._total + 1))
        first = self._first
        self._restart(-1, 0, now)
        return Message(message.header, outside(message) + parse_inside(first, whole), is_protected=True)
