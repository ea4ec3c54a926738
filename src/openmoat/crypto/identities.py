"""Identities of peers, and patterns over them (RFC 7296 3.5, RFC 4301 4.4.3.1). An identity is never an address on a path."""

from dataclasses import dataclass
from enum import Enum

from openmoat.crypto.numbers import IdType

__all__ = ["Identity", "IdentityPattern", "PatternKind"]


@dataclass(frozen=True, slots=True)
class Identity:
    """What one end says it is: type and octets as in the ID payload, compared exactly."""

    type: IdType
    value: bytes


class PatternKind(Enum):
    """How an `IdentityPattern` compares."""

    EXACT = "exact"
    SUFFIX = "suffix"
    """`*.moats.example`, `*@example`: one or more labels before the suffix, same type."""
    ANY = "any"


@dataclass(frozen=True, slots=True)
class IdentityPattern:
    """Which identities a connection accepts from its peer."""

    kind: PatternKind
    identity: Identity | None = None
    """The identity for EXACT, the suffix for SUFFIX, None for ANY."""
