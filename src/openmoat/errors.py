"""Root of all exceptions, and octets that never print themselves.

The family says whose fault it is; the class says what can be done about it; the text is for people and has the form
*where: what: bound or choice, what came*. The IKE protocol errors, which carry a notify to send, are in `ike.errors`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = [
    "BadCertificate",
    "BadIcv",
    "BadPublicValue",
    "BadSignature",
    "ConfigError",
    "ControlError",
    "CryptoError",
    "DataplaneError",
    "DeviceError",
    "Fault",
    "FieldError",
    "FieldErrors",
    "KernelRefused",
    "KeyPath",
    "MoatError",
    "Secret",
    "SystemFault",
    "UnknownSpi",
    "did_you_mean",
    "field_errors",
    "raise_errors",
]

KeyPath = tuple[str | int, ...]
"""The way to a value from the root of a record: names of fields or keys, and places in lists."""


class Secret(bytes):
    """Octets that must not reach a log, a screen or a process list; compare in constant time.

    A slice or a sum of a `Secret` is plain `bytes`; wrap it again where it is kept.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} secret octets>"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        from hmac import compare_digest  # loads OpenSSL, which a command that only asks moatd never needs

        return isinstance(other, (bytes, bytearray)) and compare_digest(bytes(self), bytes(other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = bytes.__hash__


class MoatError(Exception):
    """Everything OpenMoat raises on bad input or a bad environment. Our own misuse is `ValueError` instead."""


class CryptoError(MoatError):
    """A value that came from outside cannot be used for cryptography."""


class BadPublicValue(CryptoError):
    """A peer's key exchange value is of the wrong length or a weak point (RFC 7296 3.4, RFC 6989)."""


class BadSignature(CryptoError):
    """A signature, or a MAC made from a shared secret, does not fit."""


class BadIcv(CryptoError):
    """An integrity check value does not fit: the octets were changed, or other keys were used."""


class BadCertificate(CryptoError):
    """A certificate or its chain cannot be accepted; the text names the certificate and the rule."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One error in a file, and what to write instead."""

    file: str
    line: int
    """1 is the first; 0 where the error belongs to the file as a whole."""
    text: str
    """Where in the file, in words, and what is wrong: one line."""
    path: KeyPath = ()
    """The option, by the keys that lead to it."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.text}"


class ConfigError(MoatError):
    """A configuration has errors; all of them are reported together."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class DataplaneError(MoatError):
    """The data plane could not do what it was told."""


class UnknownSpi(DataplaneError):
    """A command names an SA that is not installed."""


class DeviceError(DataplaneError):
    """A descriptor or device does not work, or is not of the kind it was said to be."""


class KernelRefused(DataplaneError):
    """The kernel answered a request with an error number."""


class SystemFault(MoatError):
    """The host refused an address, a route, a rule or a firewall change; the text says which and what to do."""


class ControlError(MoatError):
    """A request on the control socket could not be carried out. `code` is one of `control.messages.ErrorCode`."""

    def __init__(self, code: str, text: str, hint: str = "") -> None:
        self.code = code
        self.hint = hint
        super().__init__(text)


class FieldError(ValueError):
    """One value of a record is not possible. `text` is for people and does not repeat the path."""

    def __init__(self, path: KeyPath, text: str) -> None:
        self.path = path
        self.text = text
        super().__init__(": ".join((*map(str, path), text)))


class FieldErrors(ValueError):
    """Several values of a record are not possible."""

    def __init__(self, errors: Iterable[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(map(str, self.errors)))


def raise_errors(errors: Iterable[FieldError]) -> None:
    """Raise what was found: nothing, the one `FieldError`, or all as `FieldErrors`."""
    found = tuple(errors)
    if found:
        raise found[0] if len(found) == 1 else FieldErrors(found)


def field_errors(error: ValueError, *path: str | int) -> list[FieldError]:
    """The errors that `error` stands for, with `path` before the paths of their own."""
    match error:
        case FieldErrors(errors=errors):
            return [FieldError((*path, *one.path), one.text) for one in errors]
        case FieldError():
            return [FieldError((*path, *error.path), error.text)]
        case _:
            return [FieldError(path, str(error))]


def did_you_mean(word: str, choices: Iterable[str], most: int = 3) -> str:
    """`. Did you mean "office"?` with the choices that are most alike, to end a sentence; empty where none is alike."""
    import difflib  # for errors alone: every start of the command line would pay for it

    near = [f'"{one}"' for one in difflib.get_close_matches(word, list(choices), n=most, cutoff=0.6)]
    if not near:
        return ""
    return f". Did you mean {', '.join(near[:-1])}{' or ' if near[1:] else ''}{near[-1]}?"
