"""Choosing among proposals (RFC 7296 2.7, 3.3.6): from the model to the wire, and back to a suite, with the nearest miss named."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import msgspec

from openmoat.crypto.numbers import Encr, Esn, Integ, KeMethod, Prf
from openmoat.crypto.suites import (
    ENCRYPTIONS,
    INTEGRITIES,
    KE_METHODS,
    PRFS,
    Aead,
    Encryption,
    EspSuite,
    IkeSuite,
    Integrity,
    KeyExchange,
)
from openmoat.ike.errors import NoCommonProposal, PeerMisbehaved
from openmoat.ike.wire.numbers import ProtocolId, TransformType
from openmoat.ike.wire.proposals import Proposal, Transform
from openmoat.model.connection import EspProposal, IkeProposal

__all__ = [
    "MAX_REMEMBERED_CHOICES",
    "MAX_REMEMBERED_TRANSFORMS",
    "EspChoice",
    "IkeChoice",
    "Miss",
    "accept_esp",
    "accept_ike",
    "choose_esp",
    "choose_ike",
    "misses",
    "offer_esp",
    "offer_ike",
    "transform_name",
]

MAX_REMEMBERED_CHOICES = 256
"""Lists of proposals, each with what we answer, that are remembered."""
MAX_REMEMBERED_TRANSFORMS = 64
"""Proposals and transforms of a list that is remembered; longer ones are unusual."""

T = TransformType
Wants = Mapping[TransformType, tuple[Transform, ...]]
"""What one of our proposals accepts, by type in order of preference; a type that is absent must not be chosen."""

NONE_INTEG = Transform(T.INTEG, Integ.NONE)
NONE_KE = Transform(T.KE, KeMethod.NONE)
ESN = {True: Transform(T.ESN, Esn.YES), False: Transform(T.ESN, Esn.NO)}
OPTIONAL = {T.INTEG: NONE_INTEG, T.KE: NONE_KE} | {
    kind: Transform(kind, 0) for kind in TransformType if T.ADDKE1 <= kind <= T.ADDKE7
}
"""Types whose absence from a proposal means NONE (RFC 7296 3.3.3, RFC 9370 2.2.2)."""


class IkeChoice(msgspec.Struct, frozen=True, gc=False):
    """The proposal to answer with, and what it means."""

    answer: Proposal
    suite: IkeSuite


class EspChoice(msgspec.Struct, frozen=True, gc=False):
    """The proposal to answer with, and what it means."""

    answer: Proposal
    suite: EspSuite
    key_exchange: KeyExchange | None
    """Method of a further key exchange; None: none is done."""


class Miss(msgspec.Struct, frozen=True, gc=False):
    """Why one received proposal and one of ours do not meet: the first type on which they differ."""

    number: int
    """Of the received proposal."""
    field: TransformType | None
    """None where the proposals are for different protocols."""
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    agreed: int
    """Types they agree on."""

    @property
    def field_name(self) -> str:
        """The type in words of the configuration."""
        return "protocol" if self.field is None else FIELD_NAMES.get(self.field, self.field.name)

    def __str__(self) -> str:
        theirs, ours = ", ".join(self.theirs) or "none", ", ".join(self.ours) or "none"
        return f"proposal {self.number}: {self.field_name}: ours is {ours}; received {theirs}"


FIELD_NAMES = {
    T.ENCR: "encryption",
    T.PRF: "prf",
    T.INTEG: "integrity",
    T.KE: "key exchange",
    T.ESN: "extended sequence numbers",
}


def encryption_transform(row: Encryption) -> Transform:
    """A cipher on the wire."""
    return Transform(T.ENCR, row.id, row.key_bits if row.has_key_length else None)


ENCRYPTION_ROWS = {encryption_transform(row): row for row in ENCRYPTIONS}
PRF_ROWS = {Transform(T.PRF, row.id): row for row in PRFS}
INTEGRITY_ROWS = {Transform(T.INTEG, row.id): row for row in INTEGRITIES}
KE_ROWS = {Transform(T.KE, row.id): row for row in KE_METHODS}
NAMES: Mapping[Transform, str] = {
    **{transform: row.name for transform, row in ENCRYPTION_ROWS.items()},
    **{transform: row.name for transform, row in PRF_ROWS.items()},
    **{transform: row.name for transform, row in INTEGRITY_ROWS.items()},
    **{transform: row.name for transform, row in KE_ROWS.items()},
    **dict.fromkeys(OPTIONAL.values(), "none"),
    ESN[True]: "esn",
    ESN[False]: "no esn",
}
ENUMS = {T.ENCR: Encr, T.PRF: Prf, T.INTEG: Integ, T.KE: KeMethod, T.ESN: Esn}


def transform_name(transform: Transform) -> str:
    """Word of the configuration, or the name of the registry where we have no row."""
    if transform in NAMES:
        return NAMES[transform]
    registry = ENUMS.get(transform.type)
    name = registry(transform.id).name if registry else str(transform.id)
    bits = f" with {transform.key_bits} bits" if transform.key_bits is not None else ""
    return f"{name}{bits}{' with unknown attributes' if transform.foreign else ''}"


def wants_of_ike(proposal: IkeProposal) -> Wants:
    """Our IKE proposal by type. AEADs and integrity never mix (RFC 5282 8)."""
    integrities = tuple(Transform(T.INTEG, row.id) for row in proposal.integrities)
    return {
        T.ENCR: tuple(encryption_transform(row) for row in proposal.encryptions),
        T.PRF: tuple(Transform(T.PRF, row.id) for row in proposal.prfs),
        T.INTEG: integrities or (NONE_INTEG,),
        T.KE: tuple(Transform(T.KE, row.id) for row in proposal.key_exchanges),
    }


def wants_of_esp(proposal: EspProposal, with_key_exchange: bool) -> Wants:
    """Our ESP proposal by type; in IKE_AUTH there is no further key exchange (RFC 7296 1.2)."""
    integrities = tuple(Transform(T.INTEG, row.id) for row in proposal.integrities)
    methods = tuple(Transform(T.KE, row.id) for row in proposal.key_exchanges) if with_key_exchange else ()
    return {
        T.ENCR: tuple(encryption_transform(row) for row in proposal.encryptions),
        T.INTEG: integrities or (NONE_INTEG,),
        T.KE: methods or (NONE_KE,),
        T.ESN: tuple(ESN[flag] for flag in proposal.esn),
    }


def offer(wants: Wants, number: int, protocol: ProtocolId, spi: bytes) -> Proposal:
    """Our proposal on the wire. NONE is said by leaving the type out."""
    transforms = [t for kind in wants.values() for t in kind if t not in {NONE_INTEG, NONE_KE}]
    return Proposal(number, protocol, spi, tuple(transforms))


def offer_ike(proposals: Sequence[IkeProposal], spi: bytes = b"") -> tuple[Proposal, ...]:
    """SA payload of an IKE SA: `spi` of 8 octets when it rekeys, empty in IKE_SA_INIT."""
    return tuple(offer(wants_of_ike(row), number, ProtocolId.IKE, spi) for number, row in enumerate(proposals, 1))


def offer_esp(proposals: Sequence[EspProposal], spi: bytes, with_key_exchange: bool) -> tuple[Proposal, ...]:
    """SA payload of a Child SA: without key exchange in IKE_AUTH, with it in CREATE_CHILD_SA."""
    rows = [wants_of_esp(row, with_key_exchange) for row in proposals]
    return tuple(offer(wants, number, ProtocolId.ESP, spi) for number, wants in enumerate(rows, 1))


def match(
    received: Proposal, wants: Wants, ignored: frozenset[TransformType] = frozenset()
) -> tuple[Transform, ...] | Miss:
    """One transform of each type, in our order of preference, or where the two part (RFC 7296 3.3.6).

    A transform with attributes we do not know equals none of ours, so it is passed over; a type we do not know makes
    the proposal unacceptable unless it offers NONE.
    """
    by_type: dict[TransformType, list[Transform]] = {}
    for transform in received.transforms:
        by_type.setdefault(transform.type, []).append(transform)
    chosen: list[Transform] = []
    kinds = [*wants, *(kind for kind in by_type if kind not in wants)]
    agreed = 0
    miss: TransformType | None = None
    for kind in kinds:
        if kind in ignored:
            continue
        none = OPTIONAL.get(kind)
        theirs = by_type.get(kind) or ([none] if none else [])
        ours = wants.get(kind) or ((none,) if none else ())
        found = next((transform for transform in ours if transform in theirs), None)
        if found is None:
            miss = miss or kind
            continue
        agreed += 1
        if kind in by_type:
            chosen.append(found)
    if miss is None:
        return tuple(chosen)
    return Miss(received.number, miss, names(wants.get(miss, ())), names(by_type.get(miss, ())), agreed)


def names(transforms: Iterable[Transform]) -> tuple[str, ...]:
    """For people."""
    return tuple(transform_name(transform) for transform in transforms)


def choose(
    received: Sequence[Proposal], protocol: ProtocolId, ours: Sequence[Wants], ignored: frozenset[TransformType]
) -> tuple[Proposal, tuple[Transform, ...]]:
    """The first of ours that meets one of theirs, and how. Raises `NoCommonProposal` that names the nearest miss."""
    for wants in ours:
        for proposal in received:
            if proposal.protocol is not protocol:
                continue
            result = match(proposal, wants, ignored)
            if not isinstance(result, Miss):
                return proposal, result
    nearest = nearest_misses(received, protocol, ours, ignored)
    raise NoCommonProposal(f"SA: no common proposal; nearest is {nearest[0]}" if nearest else "SA: no common proposal")


def nearest_misses(
    received: Sequence[Proposal], protocol: ProtocolId, ours: Sequence[Wants], ignored: frozenset[TransformType]
) -> tuple[Miss, ...]:
    """All misses, the nearest first."""
    found: list[Miss] = []
    for proposal in received:
        if proposal.protocol is not protocol:
            found.append(Miss(proposal.number, None, (protocol.name,), (proposal.protocol.name,), -1))
            continue
        results = [match(proposal, wants, ignored) for wants in ours]
        found += [result for result in results if isinstance(result, Miss)]
    return tuple(sorted(found, key=lambda miss: -miss.agreed))


def misses(
    received: Sequence[Proposal], ours: Sequence[IkeProposal] | Sequence[EspProposal], with_key_exchange: bool = False
) -> tuple[Miss, ...]:
    """Why what was received and what we accept do not meet, the nearest first; for explanations."""
    protocol, rows = ProtocolId.ESP, list[Wants]()
    for row in ours:
        if isinstance(row, IkeProposal):
            protocol = ProtocolId.IKE
            rows.append(wants_of_ike(row))
        else:
            rows.append(wants_of_esp(row, with_key_exchange))
    ignored = frozenset() if with_key_exchange or protocol is ProtocolId.IKE else frozenset({T.KE})
    return nearest_misses(received, protocol, rows, ignored)


def choose_ike(
    received: Sequence[Proposal], ours: Sequence[IkeProposal], spi: bytes = b"", method: KeMethod | None = None
) -> IkeChoice:
    """The IKE suite, as responder. `method` is that of the KE payload: where we accept it, it spares a round trip."""
    offers = without_spis(received)
    look = look_for_ike if is_short(offers) else look_for_ike.__wrapped__
    number, transforms, suite = look(offers, tuple(ours), method)
    return IkeChoice(Proposal(number, ProtocolId.IKE, spi, transforms), suite)


def choose_esp(
    received: Sequence[Proposal],
    ours: Sequence[EspProposal],
    spi: bytes,
    with_key_exchange: bool,
    method: KeMethod | None = None,
) -> EspChoice:
    """The ESP suite, as responder. In IKE_AUTH a key exchange that is offered all the same is passed over."""
    offers = without_spis(received)
    look = look_for_esp if is_short(offers) else look_for_esp.__wrapped__
    number, transforms, suite = look(offers, tuple(ours), with_key_exchange, method)
    return EspChoice(Proposal(number, ProtocolId.ESP, spi, transforms), suite, key_exchange(transforms))


# A fleet offers the same again and again, and is answered the same.


@lru_cache(maxsize=MAX_REMEMBERED_CHOICES)
def look_for_ike(
    offers: tuple[Proposal, ...], ours: tuple[IkeProposal, ...], method: KeMethod | None
) -> tuple[int, tuple[Transform, ...], IkeSuite]:
    """Number of the proposal to answer, what to answer it with, and what that means."""
    rows = [prefer(wants_of_ike(row), method) for row in ours]
    proposal, transforms = choose(offers, ProtocolId.IKE, rows, frozenset())
    return proposal.number, transforms, ike_suite(transforms)


@lru_cache(maxsize=MAX_REMEMBERED_CHOICES)
def look_for_esp(
    offers: tuple[Proposal, ...], ours: tuple[EspProposal, ...], with_key_exchange: bool, method: KeMethod | None
) -> tuple[int, tuple[Transform, ...], EspSuite]:
    """The same of ESP."""
    rows = [prefer(wants_of_esp(row, with_key_exchange), method) for row in ours]
    ignored = frozenset() if with_key_exchange else frozenset({T.KE})
    proposal, transforms = choose(offers, ProtocolId.ESP, rows, ignored)
    return proposal.number, transforms, esp_suite(transforms)


def without_spis(proposals: Sequence[Proposal]) -> tuple[Proposal, ...]:
    """Proposals of which two are equal where what they offer is."""
    return tuple(Proposal(row.number, row.protocol, b"", row.transforms) if row.spi else row for row in proposals)


def is_short(offers: tuple[Proposal, ...]) -> bool:
    """Whether they may be remembered: the list of an unknown peer can be long."""
    return sum(len(row.transforms) + 1 for row in offers) <= MAX_REMEMBERED_TRANSFORMS


def prefer(wants: Wants, method: KeMethod | None) -> Wants:
    """The same with one key exchange method first, where it is there."""
    if method is None:
        return wants
    return {**wants, T.KE: tuple(sorted(wants[T.KE], key=lambda transform: transform.id != method))}


def accepted(response: Sequence[Proposal], offered: Sequence[Proposal]) -> Proposal:
    """The one proposal of a response, which must be one of ours with one transform per type (RFC 7296 2.7)."""
    if len(response) != 1:
        raise PeerMisbehaved(f"SA response: exactly one proposal, not {len(response)}")
    answer = response[0]
    ours = next((proposal for proposal in offered if proposal.number == answer.number), None)
    if ours is None or ours.protocol is not answer.protocol:
        raise PeerMisbehaved(f"SA response: proposal {answer.number} ({answer.protocol.name}) was not offered")
    kinds = [transform.type for transform in answer.transforms]
    if len(set(kinds)) != len(kinds):
        raise PeerMisbehaved("SA response: one transform of each type, not several")
    wanted = {transform.type for transform in ours.transforms}
    for transform in answer.transforms:
        # A type we left out stands for NONE, and may be answered so.
        says_none = transform.type not in wanted and transform == OPTIONAL.get(transform.type)
        if transform not in ours.transforms and not says_none:
            raise PeerMisbehaved(f"SA response: {transform_name(transform)} was not offered")
    missing = wanted - set(kinds)
    if missing:
        raise PeerMisbehaved(f"SA response: {', '.join(sorted(kind.name for kind in missing))} left unanswered")
    return answer


def accept_ike(response: Sequence[Proposal], offered: Sequence[Proposal]) -> IkeChoice:
    """The IKE suite, as initiator. Raises `PeerMisbehaved` where the response is not a choice among `offered`."""
    answer = accepted(response, offered)
    return IkeChoice(answer, ike_suite(answer.transforms))


def accept_esp(response: Sequence[Proposal], offered: Sequence[Proposal]) -> EspChoice:
    """The ESP suite, as initiator. Raises `PeerMisbehaved` where the response is not a choice among `offered`."""
    answer = accepted(response, offered)
    return EspChoice(answer, esp_suite(answer.transforms), key_exchange(answer.transforms))


def ike_suite(transforms: Iterable[Transform]) -> IkeSuite:
    """One transform per type as rows of our tables; AEAD and integrity exclude each other (RFC 5282 8)."""
    by_type = {transform.type: transform for transform in transforms}
    encryption, integrity = ciphers(by_type)
    prf, exchange = PRF_ROWS.get(by_type[T.PRF]), key_exchange(by_type.values())
    if prf is None or exchange is None:
        raise PeerMisbehaved("SA: an IKE SA needs a prf and a key exchange that we know")
    return IkeSuite(encryption, integrity, prf, exchange)


def esp_suite(transforms: Iterable[Transform]) -> EspSuite:
    """One transform per type as rows of our tables."""
    by_type = {transform.type: transform for transform in transforms}
    encryption, integrity = ciphers(by_type)
    return EspSuite(encryption, integrity, by_type[T.ESN] == ESN[True])


def ciphers(by_type: Mapping[TransformType, Transform]) -> tuple[Encryption, Integrity | None]:
    """Encryption and the integrity it needs, or `PeerMisbehaved`."""
    encryption = ENCRYPTION_ROWS.get(by_type[T.ENCR])
    integrity = INTEGRITY_ROWS.get(by_type.get(T.INTEG, NONE_INTEG))
    if encryption is None or isinstance(encryption, Aead) != (integrity is None):
        raise PeerMisbehaved("SA: integrity goes with a cipher, and only with a cipher")
    return encryption, integrity


def key_exchange(transforms: Iterable[Transform]) -> KeyExchange | None:
    """The key exchange among the transforms; None for NONE or no such type."""
    return next((KE_ROWS[transform] for transform in transforms if transform in KE_ROWS), None)
