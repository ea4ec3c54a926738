"""Exchanges of both sides that touch the same SA: the table of RFC 7296 2.25, and who wins (2.8.1, 2.8.2)."""

from collections.abc import Mapping
from enum import Enum, auto

__all__ = ["COLLISIONS", "Ours", "Theirs", "Verdict", "is_lowest", "judge"]


class Ours(Enum):
    """What we are doing that may touch the SA the peer's request is about."""

    NOTHING = auto()
    CREATING_CHILD = auto()
    """A new Child SA, or the rekey of another one than the request is about."""
    REKEYING_THIS_CHILD = auto()
    CLOSING_CHILD = auto()
    """Another Child SA than the request is about."""
    CLOSING_THIS_CHILD = auto()
    """Also while its Delete waits for its turn after a rekey of ours."""
    REKEYING_IKE = auto()
    CLOSING_IKE = auto()
    """Also an IKE SA that has been replaced and is about to be deleted."""


class Theirs(Enum):
    """What the peer asks for."""

    CREATE_CHILD = auto()
    REKEY_CHILD = auto()
    REKEY_MISSING_CHILD = auto()
    DELETE_CHILD = auto()
    DELETE_MISSING_CHILD = auto()
    REKEY_IKE = auto()
    DELETE_IKE = auto()


class Verdict(Enum):
    """How the request is answered."""

    ANSWER = auto()
    """As usual."""
    ANSWER_AND_COMPARE = auto()
    """As usual; once both exchanges are through, the nonces say which new SA is closed."""
    ANSWER_WITHOUT_DELETE = auto()
    """As usual, without a Delete payload of our own (RFC 7296 1.4.1)."""
    ANSWER_AND_FORGET_OURS = auto()
    """As usual; our own exchange is over."""
    TEMPORARY_FAILURE = auto()
    CHILD_SA_NOT_FOUND = auto()


_A, _C, _W = Verdict.ANSWER, Verdict.ANSWER_AND_COMPARE, Verdict.ANSWER_WITHOUT_DELETE
_F, _T, _N = Verdict.ANSWER_AND_FORGET_OURS, Verdict.TEMPORARY_FAILURE, Verdict.CHILD_SA_NOT_FOUND

_COLUMNS = (
    Ours.NOTHING,
    Ours.CREATING_CHILD,
    Ours.REKEYING_THIS_CHILD,
    Ours.CLOSING_CHILD,
    Ours.CLOSING_THIS_CHILD,
    Ours.REKEYING_IKE,
    Ours.CLOSING_IKE,
)
# The first block of rows is RFC 7296 2.25.1, the last two are 2.25.2. Where the RFC says nothing we answer as usual.
_ROWS: dict[Theirs, tuple[Verdict, ...]] = {
    # Ours:                 nothing creating rekeying-it closing closing-it rekeying-IKE closing-IKE
    Theirs.CREATE_CHILD: (_A, _A, _A, _A, _A, _T, _T),
    Theirs.REKEY_CHILD: (_A, _A, _C, _A, _T, _T, _T),
    # While we create one, the missing one may be it: the peer has answered, and its response is still on the way.
    Theirs.REKEY_MISSING_CHILD: (_N, _T, _T, _N, _N, _T, _T),
    Theirs.DELETE_CHILD: (_A, _A, _A, _A, _W, _A, _A),
    Theirs.DELETE_MISSING_CHILD: (_W, _W, _W, _W, _W, _W, _W),
    Theirs.REKEY_IKE: (_A, _T, _T, _T, _T, _C, _T),
    Theirs.DELETE_IKE: (_A, _A, _A, _A, _A, _F, _F),
}
COLLISIONS: Mapping[tuple[Ours, Theirs], Verdict] = {
    (ours, theirs): verdict
    for theirs, verdicts in _ROWS.items()
    for ours, verdict in zip(_COLUMNS, verdicts, strict=True)
}


def judge(ours: Ours, theirs: Theirs) -> Verdict:
    """How to answer `theirs` while we are at `ours`."""
    return COLLISIONS[ours, theirs]


def is_lowest(own: tuple[bytes, bytes], other: tuple[bytes, bytes]) -> bool:
    """Whether the lowest of four nonces belongs to our own exchange, which then made the SA that is closed.

    Octet by octet; a nonce that ends first is the lower one (RFC 7296 2.8.1), which is how Python compares `bytes`.
    """
    return min(own) < min(other)
