"""AGGFRAG as RFC 9347 has it, slow and plain: what a sender may send, and what a receiver delivers.

A second opinion on the packet engine: written from the RFC alone, it shares neither code nor a table with it.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

PLAIN, CONGESTION = 0, 1
"""Sub-types (RFC 9347 6.1)."""
HEADERS = {PLAIN: 4, CONGESTION: 24}
WINDOW = 64
"""Payloads that pieces of a packet may come late (RFC 9347 2.2.3, 2.5)."""
SHORTEST = {4: 20, 6: 40}
"""Octets of a header of that version."""
KNOWS_LENGTH = {4: 4, 6: 6}
"""Octets of a packet that say how long it is (RFC 9347 6.1.3.1, 6.1.3.2)."""


class Unlawful(Exception):
    """A sender has broken a rule; the text says which."""


PROBING, COUNTS_MARKS = 2, 1
"""P and E, the bits of the second octet that sub-type 1 has."""


@dataclass(frozen=True, slots=True)
class Said:
    """The fields of sub-type 1 (RFC 9347 6.1.2), as they lie behind the offset."""

    loss_event_rate: int
    rtt: int
    echo_delay: int
    transmit_delay: int
    value: int
    echo: int
    is_probing: bool = False


def said(payload: bytes) -> Said | None:
    """What a payload says of the path; None where it says nothing."""
    if len(payload) < HEADERS[CONGESTION] or payload[0] != CONGESTION:
        return None
    bits = f"{int.from_bytes(payload[8:16], 'big'):064b}"
    rate, value, echo = (int.from_bytes(payload[at : at + 4], "big") for at in (4, 16, 20))
    rtt, echo_delay, transmit_delay = (int(bits[start:end], 2) for start, end in ((0, 22), (22, 43), (43, 64)))
    return Said(rate, rtt, echo_delay, transmit_delay, value, echo, bool(payload[1] & PROBING))


@dataclass(frozen=True, slots=True)
class Parsed:
    """One payload: the octets of its data blocks, and how many of them belong to a block begun before."""

    offset: int
    data: bytes
    reserved: int = 0

    @property
    def is_all_pad(self) -> bool:
        """Whether it takes no part in any packet (2.2.3): one pad block, or nothing at all."""
        return self.offset == 0 and (not self.data or self.data[0] >> 4 == 0)

    @property
    def rest(self) -> bytes:
        """What goes on with a block begun before."""
        return self.data[: self.offset]

    @property
    def is_continued(self) -> bool:
        """Whether that block ends in a later payload."""
        return self.offset > len(self.data)


def parse(payload: bytes) -> Parsed | None:
    """A payload without ESP's padding and trailer; None where it is none that we know."""
    size = HEADERS.get(payload[0]) if payload else None
    if size is None or len(payload) < size:
        return None
    return Parsed(int.from_bytes(payload[2:4], "big"), payload[size:], payload[1])


def length_of(block: bytes) -> int | None:
    """Octets of the inner packet that begins here, by its header; None where too few are here to tell.

    Raises `ValueError` where no packet can begin so.
    """
    version = block[0] >> 4
    if version not in SHORTEST:
        raise ValueError(f"a data block of type {version}")
    if len(block) < KNOWS_LENGTH[version]:
        return None
    if version == 6:
        return 40 + int.from_bytes(block[4:6], "big")
    total, header = int.from_bytes(block[2:4], "big"), 4 * (block[0] & 15)
    if not SHORTEST[4] <= header <= total:
        raise ValueError(f"an IPv4 packet of {total} octets with a header of {header}")
    return total


def blocks(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """The blocks that begin here, each with whether it is whole. Ends at a pad block; what is no block ends it as well."""
    while data and data[0] >> 4:
        try:
            length = length_of(data)
        except ValueError:
            return
        if length is None or length > len(data):
            yield data, False
            return
        yield data[:length], True
        data = data[length:]


# Sender (2.2.3, 2.2.4, 6.1).


def check_sender(payloads: Sequence[bytes]) -> list[bytes]:
    """The packets that payloads with consecutive sequence numbers carry, in order; `Unlawful` where a rule is broken.

    The first begins with a block of its own, and the last leaves nothing open.
    """
    carried: list[bytes] = []
    begun = b""
    for number, payload in enumerate(payloads):
        parsed = parse(payload)
        if parsed is None:
            raise Unlawful(f"payload {number}: no AGGFRAG payload: {payload[:4].hex()}")
        if parsed.reserved & (0xFF if payload[0] == PLAIN else 0xFC):
            raise Unlawful(f"payload {number}: reserved bits set: {parsed.reserved:#04x}")
        if not parsed.data:
            raise Unlawful(f"payload {number}: no data blocks (2.2.4)")
        if parsed.is_all_pad:
            continue
        if parsed.offset != _left_of(begun, number):
            raise Unlawful(
                f"payload {number}: offset {parsed.offset}, of the packet begun {_left_of(begun, number)} left"
            )
        begun += parsed.rest
        if parsed.is_continued:
            continue
        if begun:
            carried.append(begun)
        begun = _check_blocks(number, parsed.data[parsed.offset :], carried)
    if begun:
        raise Unlawful("the last packet was abandoned")
    return carried


def check_asking(payloads: Sequence[bytes], room: int) -> list[int]:
    """The rules of our own marks: the values that are asked for, in order.

    A payload that says something and carries a packet is as large as any, and asks. Behind it comes pad of a few octets
    that asks as well, with a value of its own. Neither counts as a probe unless it is pad.
    """
    values: list[int] = []
    awaits = False
    for number, payload in enumerate(payloads):
        parsed, words = parse(payload), said(payload)
        if parsed is None or (words is None and awaits):
            raise Unlawful(f"payload {number}: nothing small behind a mark")
        if words is None:
            continue
        if not words.value or words.value in values or words.echo or words.loss_event_rate or words.rtt:
            raise Unlawful(f"payload {number}: {words}")
        if words.is_probing is not parsed.is_all_pad or parsed.is_all_pad is not awaits:
            raise Unlawful(f"payload {number}: {words}, pad is {parsed.is_all_pad}")
        if len(payload) != HEADERS[PLAIN] + room and not parsed.is_all_pad:
            raise Unlawful(f"payload {number}: marked, and {len(payload)} octets, with room for {room}")
        values.append(words.value)
        awaits = not awaits
    return values


def _left_of(begun: bytes, number: int) -> int:
    if not begun:
        return 0
    length = length_of(begun)
    if length is None:
        # The RFC allows it, and receivers must take it; neither ours nor Linux begin a packet so.
        raise Unlawful(f"payload {number}: a packet was begun with {len(begun)} octets, which do not say its length")
    return length - len(begun)


def _check_blocks(number: int, data: bytes, carried: list[bytes]) -> bytes:
    """Note the whole packets that begin here; gives the one that does not end here."""
    for block, is_whole in blocks(data):
        data = data[len(block) :]
        if not is_whole:
            return block
        carried.append(block)
    if data and data[0] >> 4:
        raise Unlawful(f"payload {number}: no data block begins with {data[:4].hex()}")
    return b""


def check_on_demand(payloads: Sequence[bytes], room: int) -> list[bytes]:
    """Like `check_sender`, and our own rules: no payload has more than `room` octets of data blocks, and a packet that
    fits one payload is never sliced.
    """
    carried = check_sender(payloads)
    whole = [block for payload in payloads for block in whole_blocks(payload)]
    sliced = [packet for packet in carried if packet not in whole]
    if small := [len(packet) for packet in sliced if len(packet) <= room]:
        raise Unlawful(f"a packet of {small[0]} octets was sliced, where {room} fit")
    for number, payload in enumerate(payloads):
        if len(payload) > HEADERS[PLAIN] + room:
            raise Unlawful(f"payload {number}: {len(payload)} octets, with room for {room}")
    return carried


def whole_blocks(payload: bytes) -> list[bytes]:
    """The packets that lie whole in one payload, in order."""
    parsed = parse(payload)
    if parsed is None or parsed.is_continued:
        return []
    return [block for block, is_whole in blocks(parsed.data[parsed.offset :]) if is_whole]


def pack_tightly(packets: Iterable[bytes], sizes: Iterator[int], sub_types: Iterator[int]) -> list[bytes]:
    """A lawful sender that fills every payload to its size, as in the RFC's appendix A; the end is padded."""
    stream, left = b"", 0
    starts: list[int] = []
    for packet in packets:
        starts.append(len(stream))
        stream += packet
    starts.append(len(stream))
    payloads, at = [], 0
    while at < len(stream):
        size, sub_type = next(sizes), next(sub_types)
        left = next(start for start in starts if start >= at) - at
        data = stream[at : at + size]
        payloads.append(header(sub_type, left) + data.ljust(size, b"\0"))
        at += size
    return payloads


def header(sub_type: int, offset: int, flags: int = 0) -> bytes:
    """The octets before the data blocks, without congestion information."""
    return struct.pack(">BBH", sub_type, flags, offset).ljust(HEADERS[sub_type], b"\0")


# Receiver (2.2.3, 2.5, first method: what is whole leaves at once, pieces wait).


@dataclass(slots=True)
class Receiver:
    """Delivers whatever can be delivered as soon as it can be.

    Pieces are kept until the window has passed them. A payload that comes later still gives its whole packets, but no
    piece of another; one whose sequence number came before gives nothing. Where offsets disagree (2.5) the packet they
    share is lost, nothing else.
    """

    window: int = WINDOW
    arrived: dict[int, Parsed] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    highest: int = 0
    begun: dict[int, bytes] = field(default_factory=dict)
    """By payload, the block that begins there and does not end there, until it is delivered."""

    def receive(self, sequence: int, payload: bytes) -> list[bytes]:
        """The packets that this payload brings, in the order of the stream."""
        if sequence in self.seen:
            return []
        self.seen.add(sequence)
        self.highest = max(self.highest, sequence)
        for table in (self.arrived, self.begun):
            for old in [number for number in table if number + self.window <= self.highest]:
                del table[old]
        parsed = parse(payload)
        if parsed is None or (parsed.offset and not parsed.data):
            return []  # what goes on with a packet must have octets of it
        whole = whole_blocks(payload)
        if sequence + self.window <= self.highest:
            return whole
        self.arrived[sequence] = parsed
        if head := open_block(parsed):
            self.begun[sequence] = head
        return [
            *self._finished_by(sequence, is_begun_here=False),
            *whole,
            *self._finished_by(sequence, is_begun_here=True),
        ]

    def _finished_by(self, sequence: int, *, is_begun_here: bool) -> list[bytes]:
        """The packet that this payload completes: the one that it begins, or one begun before."""
        found = []
        for start in sorted(self.begun):
            is_here = start == sequence if is_begun_here else start < sequence
            if is_here and (packet := self._assembled(start)):
                del self.begun[start]
                found.append(packet)
        return found

    def _assembled(self, start: int) -> bytes:
        """The packet begun at the end of that payload; empty where it cannot be had (yet)."""
        parts = [self.begun[start]]
        length, had, sequence = length_of(parts[0]), len(parts[0]), start
        while True:
            sequence += 1
            parsed = self.arrived.get(sequence)
            if parsed is None:
                return b""
            if parsed.is_all_pad:
                continue
            if length is None and parsed.offset:
                length = had + parsed.offset
            if length is None or parsed.offset != length - had:
                return b""
            parts.append(parsed.rest)
            had += len(parsed.rest)
            if not parsed.is_continued:
                packet = b"".join(parts)
                return packet if _is_as_long_as_it_says(packet) else b""


def open_block(parsed: Parsed) -> bytes:
    """The block that begins in a payload and does not end there."""
    if parsed.is_continued:
        return b""
    for block, is_whole in blocks(parsed.data[parsed.offset :]):
        if not is_whole:
            return block
    return b""


def _is_as_long_as_it_says(packet: bytes) -> bool:
    try:
        return length_of(packet) == len(packet)
    except ValueError:
        return False
