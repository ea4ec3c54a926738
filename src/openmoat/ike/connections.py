"""The connections that are loaded, and how a responder finds the right ones without walking over all of them."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice

from openmoat.crypto.identities import Identity, PatternKind
from openmoat.crypto.numbers import IdType
from openmoat.crypto.suites import EspSuite, IkeSuite
from openmoat.ike.config import Count
from openmoat.ike.negotiate.child_sa import keepable
from openmoat.model.connection import Authority, Child, Connection, IkeProposal

__all__ = ["MAX_AUTHORITIES", "MAX_LABELS", "MAX_TRIED", "Connections"]

MAX_AUTHORITIES = 32
"""Authorities that a responder names before it knows which connection is meant; each takes 20 octets of IKE_SA_INIT."""

MAX_TRIED = 4
"""Connections whose credentials one IKE_AUTH request may be tried against; where more would fit, it is counted."""
MAX_LABELS = 32
"""Labels of the longest suffix of a name that is looked up; names with more below are counted."""


class Connections:
    """By name, and by the identity of the peer: exact, by suffix, or anybody."""

    def __init__(self, suites: frozenset[EspSuite] | None, counts: Counter[Count], aggfrag: bool = True) -> None:
        self._counts = counts
        self._suites = suites
        self._aggfrag = aggfrag
        self._by_name: dict[str, Connection] = {}
        self._children: dict[str, tuple[Child, ...]] = {}
        self._by_pattern: dict[tuple[PatternKind, Identity | None], dict[str, Connection]] = {}
        self._proposals: dict[tuple[IkeProposal, ...], int] = {}
        self._barred: dict[str, set[Identity]] = {}
        """Connections that were taken down, with the peers for which; without any, for all."""
        self._authorities: dict[bytes, int] = {}
        """How many connections trust each authority, by its hash."""

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def find(self, name: str) -> Connection | None:
        """The connection of this name."""
        return self._by_name.get(name)

    def names(self) -> list[str]:
        """All of them, for status."""
        return list(self._by_name)

    def children(self, name: str) -> tuple[Child, ...]:
        """Its children, with what the data plane can keep and nothing else."""
        return self._children.get(name, ())

    def child(self, name: str, child: str) -> Child | None:
        """One of its children."""
        return next((spec for spec in self.children(name) if spec.name == child), None)

    def put(self, connection: Connection) -> None:
        """Add a connection, or exchange the one of the same name."""
        self.drop(connection.name)
        self._by_name[connection.name] = connection
        children = (keepable(spec, self._suites, self._aggfrag) for spec in connection.children)
        self._children[connection.name] = tuple(child for child in children if child is not None)
        self._by_pattern.setdefault(_key(connection), {})[connection.name] = connection
        self._proposals[connection.proposals] = self._proposals.get(connection.proposals, 0) + 1
        for authority in _authorities(connection):
            self._authorities[authority] = self._authorities.get(authority, 0) + 1

    def bar(self, name: str, peer: Identity | None) -> None:
        """Nobody, or this peer alone, may bring the connection up."""
        if peer is None:
            self._barred[name] = set()
        elif self._barred.get(name, {peer}):
            self._barred.setdefault(name, set()).add(peer.folded())

    def admit(self, name: str) -> None:
        """Everybody may bring it up again."""
        self._barred.pop(name, None)

    def _is_barred(self, name: str, peer: Identity) -> bool:
        barred = self._barred.get(name)
        return barred is not None and (not barred or peer.folded() in barred)

    def drop(self, name: str) -> None:
        """Forget a connection; what lives of it is not touched here."""
        connection = self._by_name.pop(name, None)
        if connection is None:
            return
        del self._children[name]
        rows = self._by_pattern[_key(connection)]
        del rows[name]
        if not rows:
            del self._by_pattern[_key(connection)]
        self._proposals[connection.proposals] -= 1
        if not self._proposals[connection.proposals]:
            del self._proposals[connection.proposals]
        for authority in _authorities(connection):
            self._authorities[authority] -= 1
            if not self._authorities[authority]:
                del self._authorities[authority]

    def ike_proposals(self) -> tuple[tuple[IkeProposal, ...], ...]:
        """The different lists of IKE proposals in use: few, however many connections there are."""
        return tuple(self._proposals)

    def authorities(self) -> bytes:
        """Hashes of the authorities that any connection trusts, one after the other; at most `MAX_AUTHORITIES`."""
        return b"".join(islice(self._authorities, MAX_AUTHORITIES))

    def candidates(self, peer: Identity, wanted: Identity | None, suite: IkeSuite) -> tuple[Connection, ...]:
        """Connections that accept this peer, want to be called by that name, and allow the suite; at most a few."""
        found: list[Connection] = []
        if peer.type is IdType.FQDN and peer.value.count(b".") > MAX_LABELS:
            self._counts[Count.LABELS_LIMIT] += 1
        for key in _keys(peer):
            for connection in self._by_pattern.get(key, {}).values():
                if not _fits(connection, peer, wanted, suite) or self._is_barred(connection.name, peer):
                    continue
                if len(found) == MAX_TRIED:
                    self._counts[Count.CANDIDATES_LIMIT] += 1
                    return tuple(found)
                found.append(connection)
        return tuple(found)


def _authorities(connection: Connection) -> frozenset[bytes]:
    credential = connection.peer.credential
    if not isinstance(credential, Authority):
        return frozenset()
    from openmoat.crypto.x509 import authority_hash  # with certificates only: it takes 2 MB

    return frozenset(map(authority_hash, credential.roots))


def _key(connection: Connection) -> tuple[PatternKind, Identity | None]:
    pattern = connection.peer.identity
    return pattern.kind, pattern.identity.folded() if pattern.identity is not None else None


def _keys(peer: Identity) -> Sequence[tuple[PatternKind, Identity | None]]:
    """Where patterns that match an identity are filed, the most specific first."""
    folded = peer.folded()
    keys: list[tuple[PatternKind, Identity | None]] = [(PatternKind.EXACT, folded)]
    if folded.type is IdType.FQDN:
        labels = folded.value.split(b".")[1:][-MAX_LABELS:]
        suffixes = [b"." + b".".join(labels[at:]) for at in range(len(labels))]
        keys += [(PatternKind.SUFFIX, Identity(IdType.FQDN, suffix)) for suffix in suffixes]
    elif folded.type is IdType.RFC822_ADDR:
        _, at, host = folded.value.rpartition(b"@")
        keys.append((PatternKind.SUFFIX, Identity(IdType.RFC822_ADDR, at + host)))
    keys.append((PatternKind.ANY, None))
    return keys


def _fits(connection: Connection, peer: Identity, wanted: Identity | None, suite: IkeSuite) -> bool:
    if not connection.peer.identity.matches(peer):
        return False
    if wanted is not None and wanted.folded() != connection.local_identity.folded():
        return False
    return any(_allows(proposal, suite) for proposal in connection.proposals)


def _allows(proposal: IkeProposal, suite: IkeSuite) -> bool:
    integrity = suite.integrity in proposal.integrities if suite.integrity else not proposal.integrities
    return (
        integrity
        and suite.encryption in proposal.encryptions
        and suite.prf in proposal.prfs
        and suite.key_exchange in proposal.key_exchanges
    )
