"""The few words of DER (X.690) that we write ourselves. What we read is read by pyca/cryptography."""

__all__ = ["INTEGER", "NULL", "OBJECT_IDENTIFIER", "SEQUENCE", "der", "explicit"]

INTEGER = 0x02
NULL = 0x05
OBJECT_IDENTIFIER = 0x06
SEQUENCE = 0x30

_SHORT_FORM = 128


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
