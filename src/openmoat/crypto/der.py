"""The little of DER (X.690) that we write and read ourselves; everything else is read by pyca/cryptography."""

from typing import NamedTuple

from openmoat.errors import CryptoError

__all__ = ["INTEGER", "NULL", "OBJECT_IDENTIFIER", "SEQUENCE", "Element", "der", "elements", "explicit"]

INTEGER = 0x02
NULL = 0x05
OBJECT_IDENTIFIER = 0x06
SEQUENCE = 0x30

_SHORT_FORM = 128
_LONG_TAG = 0x1F
_LONGEST_HEAD = 6
"""Octets before the content of an element: a tag and a length of at most four."""


class Element(NamedTuple):
    """One element: its tag, what is in it, and all of its octets."""

    tag: int
    content: bytes
    octets: bytes


def elements(octets: bytes) -> list[Element]:
    """The elements that stand one after the other, or `CryptoError`: tags of one octet, definite lengths in few octets."""
    found, at = [], 0
    while at < len(octets):
        head = octets[at : at + 2]
        size, start = head[-1], at + 2
        if size >= _SHORT_FORM:
            start += size - _SHORT_FORM
            size = int.from_bytes(octets[at + 2 : start])
        end = start + size
        is_definite = len(head) == 2 and head[1] != _SHORT_FORM and start <= at + _LONGEST_HEAD
        if not is_definite or head[0] & _LONG_TAG == _LONG_TAG or end > len(octets):
            raise CryptoError(f"DER: no whole element at octet {at}")
        found.append(Element(head[0], octets[start:end], octets[at:end]))
        at = end
    return found


def der(tag: int, *parts: bytes) -> bytes:
    """One element: tag, definite length, the parts one after the other."""
    content = b"".join(parts)
    if len(content) < _SHORT_FORM:
        return bytes((tag, len(content))) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def explicit(number: int, element: bytes) -> bytes:
    """An element under the explicit context tag [number]."""
    return der(0xA0 | number, element)
