"""Reader and Writer: a strict cursor over octets, and the few helpers that put octets together.

`Reader` never invents octets: a length is checked before it is used, and a failure names the field.
"""

from struct import Struct

from openmoat.ike.errors import MalformedMessage

__all__ = ["Layout", "Reader", "Writer"]

U16 = Struct(">H")


class Layout:
    """Consecutive numbers of fixed sizes, big-endian: `format` as `struct` writes it, and a name for each field."""

    __slots__ = ("fields", "size", "unpack_from")

    def __init__(self, format: str, *fields: str) -> None:
        layout = Struct(f">{format}")
        self.unpack_from = layout.unpack_from
        self.size = layout.size
        sizes = [Struct(f">{code}").size for code in format]
        self.fields = tuple(zip(fields, sizes, strict=True))

    def missing(self, left: int) -> tuple[str, int, int]:
        """The first field that does not lie in so many octets, its size, and what is left for it."""
        rest = left
        for field, size in self.fields:
            if size > rest:
                return field, size, rest
            rest -= size
        raise ValueError(f"{self.fields}: {left} octets are enough")


class Reader:
    """A cursor over `buffer[position:end]`; several may share one buffer, nothing is copied before it is kept."""

    __slots__ = ("_buffer", "_end", "_position", "_where")

    def __init__(self, buffer: bytes, where: str, position: int = 0, end: int | None = None) -> None:
        self._buffer = buffer
        self._where = where
        self._position = position
        self._end = len(buffer) if end is None else end

    @property
    def left(self) -> int:
        """Octets not read yet."""
        return self._end - self._position

    def fault(self, text: str) -> MalformedMessage:
        """An error that names this place, for the caller to raise."""
        return MalformedMessage(f"{self._where}: {text}")

    def _advance(self, field: str, count: int) -> int:
        position = self._position
        if position + count > self._end:
            raise MalformedMessage(f"{self._where}: {field} needs {count} octets, {self._end - position} left")
        self._position = position + count
        return position

    def u8(self, field: str) -> int:
        """One octet."""
        return self._buffer[self._advance(field, 1)]

    def u16(self, field: str) -> int:
        """Two octets, big-endian."""
        value: int = U16.unpack_from(self._buffer, self._advance(field, 2))[0]
        return value

    def unpack(self, layout: Layout) -> tuple[int, ...]:
        """Several numbers at once."""
        position = self._position
        after = position + layout.size
        if after > self._end:
            field, size, left = layout.missing(self._end - position)
            raise MalformedMessage(f"{self._where}: {field} needs {size} octets, {left} left")
        self._position = after
        return layout.unpack_from(self._buffer, position)

    def octets(self, field: str, count: int) -> bytes:
        """Exactly `count` octets."""
        position = self._advance(field, count)
        return self._buffer[position : position + count]

    def skip(self, field: str, count: int) -> None:
        """Pass over `count` octets: reserved ones are ignored on read (RFC 7296 2.5)."""
        self._advance(field, count)

    def rest(self) -> bytes:
        """All that is left; may be empty."""
        position, self._position = self._position, self._end
        return self._buffer[position : self._end]

    def within(self, field: str, count: int, where: str) -> "Reader":
        """A reader of the next `count` octets only."""
        position = self._advance(field, count)
        return Reader(self._buffer, where, position, position + count)

    def end(self) -> None:
        """Refuse trailing octets."""
        if self._position != self._end:
            raise MalformedMessage(f"{self._where}: nothing more may follow, {self._end - self._position} octets do")


class Writer:
    """Puts octets together in order; what does not fit its field is our own misuse, a `ValueError`."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def uint(self, size: int, value: int) -> "Writer":
        """`value` in `size` octets, big-endian."""
        try:
            self._parts.append(value.to_bytes(size, "big"))
        except OverflowError as error:
            raise ValueError(f"a field of {size} octets cannot hold {value}") from error
        return self

    def octets(self, octets: bytes) -> "Writer":
        """Octets as they are."""
        self._parts.append(octets)
        return self

    def join(self) -> bytes:
        """All that was put in."""
        return b"".join(self._parts)
