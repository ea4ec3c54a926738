"""Exchanges of both sides that touch the same SA: the table of RFC 7296 2.25, and who wins (2.8.1, 2.8.2).

Every request for a Child SA, for a rekey or for a deletion asks `answer` what becomes of it, when it comes in and once more
when the SA that it asks for is about to be used.
"""

from collections.abc import Mapping
from enum import Enum, auto

__all__ = ["COLLISIONS", "Ours", "Theirs", "Verdict", "answer", "is_lowest"]


class Ours(Enum):
    """What we are doing that may touch the SA the peer's request is about."""

    NOTHING = auto()
    CREATING_CHILD = auto()
    """A new Child SA, or the rekey of another one than the request is about."""
    CREATING_THIS_CHILD = auto()
    """A new Child SA of the same name."""
    REKEYING_THIS_CHILD = auto()
    CLOSING_CHILD = auto()
    """Another Child SA than the request is about."""
    LEAVING_THIS_CHILD = auto()
    """It has been replaced, or its Delete waits for its turn."""
    CLOSING_THIS_CHILD = auto()
    """Its Delete has gone out."""
    REKEYING_IKE = auto()
    CLOSING_IKE = auto()
    """Also an IKE SA that has been replaced, or a successor of which it is not yet known whether it stays."""


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
    """What becomes of the request."""

    ANSWER = auto()
    """It is carried out."""
    ANSWER_AND_COMPARE = auto()
    """It is carried out; once both exchanges are over, the nonces decide which of the new SAs is closed."""
    ANSWER_WITHOUT_DELETE = auto()
    """It is carried out; the response does not name our half (RFC 7296 1.4.1)."""
    ANSWER_AND_REMEMBER = auto()
    """There is nothing to carry out yet: our open exchange may be making what it names, and must know of it."""
    TEMPORARY_FAILURE = auto()
    """It is refused: the peer may try again."""
    CHILD_SA_NOT_FOUND = auto()
    """It is refused: the peer has to give the SA up."""


_A, _C, _W = Verdict.ANSWER, Verdict.ANSWER_AND_COMPARE, Verdict.ANSWER_WITHOUT_DELETE
_R, _T, _N = Verdict.ANSWER_AND_REMEMBER, Verdict.TEMPORARY_FAILURE, Verdict.CHILD_SA_NOT_FOUND

# The first block of rows is RFC 7296 2.25.1, the last two are 2.25.2. Where the RFC says nothing we answer as usual.
# A request about the IKE SA, or about a Child SA that we do not know, is seen from no Child SA of ours: it never meets the
# columns of "this" child. They have the verdict of the column that it meets instead, so that the table has no holes. The
# Delete of the IKE SA is answered whatever we do: our own exchanges end with it.
_ROWS: dict[Theirs, tuple[Verdict, ...]] = {
    # Ours: nothing, creating, creating this, rekeying this, closing, leaving this, closing this, rekeying IKE, closing IKE
    Theirs.CREATE_CHILD: (_A, _A, _C, _A, _A, _A, _A, _T, _T),
    Theirs.REKEY_CHILD: (_A, _A, _A, _C, _A, _T, _T, _T, _T),
    # While we create one, the missing one may be it: the peer has answered, and its response is still on the way.
    Theirs.REKEY_MISSING_CHILD: (_N, _T, _T, _T, _N, _N, _N, _T, _T),
    Theirs.DELETE_CHILD: (_A, _A, _A, _A, _A, _A, _W, _A, _A),
    Theirs.DELETE_MISSING_CHILD: (_W, _R, _R, _R, _W, _W, _W, _W, _W),
    Theirs.REKEY_IKE: (_A, _T, _T, _T, _T, _T, _T, _C, _T),
    Theirs.DELETE_IKE: (_A, _A, _A, _A, _A, _A, _A, _A, _A),
}
COLLISIONS: Mapping[tuple[Theirs, Ours], Verdict] = {
    (theirs, ours): verdict for theirs, verdicts in _ROWS.items() for ours, verdict in zip(Ours, verdicts, strict=True)
}


def answer(theirs: Theirs, ours: Ours) -> Verdict:
    """What becomes of a request of the peer while we are at `ours`."""
    return COLLISIONS[theirs, ours]


def is_lowest(own: tuple[bytes, bytes], other: tuple[bytes, bytes]) -> bool:
    """Whether the lowest of four nonces belongs to our own exchange, which then made the SA that is closed.

    Octet by octet; a nonce that ends first is the lower one (RFC 7296 2.8.1), which is how Python compares `bytes`.
    """
    return min(own) < min(other)
