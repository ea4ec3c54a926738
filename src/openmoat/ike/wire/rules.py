"""Which payloads may stand in which message, and how often (RFC 7296 appendix C); checked before any handler runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

import msgspec

from openmoat.crypto.limits import MAX_CERTIFICATES
from openmoat.ike.errors import MalformedMessage, UnsupportedCriticalPayload
from openmoat.ike.wire.message import Header, Message
from openmoat.ike.wire.numbers import ExchangeType, NotifyType, PayloadType
from openmoat.ike.wire.payloads import Notify, Payload, Unknown

__all__ = ["EXCHANGES", "MAX_DELETES", "MAX_NOTIFIES", "MAX_VENDOR_IDS", "RULES", "Count", "Phase", "Rule", "check"]

MAX_NOTIFIES = 32
"""Notify payloads in one message."""
MAX_VENDOR_IDS = 32
"""Vendor ID payloads in one message."""
MAX_DELETES = 4
"""Delete payloads in one message: one per protocol, and one to spare."""


class Count(NamedTuple):
    """How often a payload may stand in a message."""

    least: int
    most: int


ONE = Count(1, 1)
MAYBE = Count(0, 1)
NOTIFIES = Count(0, MAX_NOTIFIES)
CERTS = Count(0, MAX_CERTIFICATES)
VENDORS = Count(0, MAX_VENDOR_IDS)
NEVER = Count(0, 0)


@dataclass(frozen=True, slots=True)
class Rule:
    """What one kind of message holds."""

    payloads: Mapping[PayloadType, Count]
    is_protected: bool = True
    """Inside SK; IKE_SA_INIT alone travels unencrypted."""
    together: tuple[PayloadType, ...] = ()
    """All of these, or none."""
    also: Mapping[PayloadType, Count] = field(
        default_factory=lambda: {PayloadType.NOTIFY: NOTIFIES, PayloadType.VENDOR_ID: VENDORS}
    )
    """What every message may hold."""

    def count(self, kind: PayloadType) -> Count:
        """How often a payload of this type may stand here."""
        return self.payloads.get(kind) or self.also.get(kind, NEVER)


class Phase(Enum):
    """What a message is for, which the state of the IKE SA decides. An exchange may have several phases, each with its rules."""

    INIT = auto()
    AUTH = auto()
    CREATE_CHILD = auto()
    """Also the rekey of a Child SA."""
    REKEY_IKE = auto()
    INFORMATIONAL = auto()


EXCHANGES: Mapping[Phase, ExchangeType] = {
    Phase.INIT: ExchangeType.IKE_SA_INIT,
    Phase.AUTH: ExchangeType.IKE_AUTH,
    Phase.CREATE_CHILD: ExchangeType.CREATE_CHILD_SA,
    Phase.REKEY_IKE: ExchangeType.CREATE_CHILD_SA,
    Phase.INFORMATIONAL: ExchangeType.INFORMATIONAL,
}
"""The exchange that a phase belongs to."""

P = PayloadType
CHILD = (P.SA, P.TS_I, P.TS_R)
REQUEST, RESPONSE = False, True
NEW_CHILD = Rule({P.SA: ONE, P.NONCE: ONE, P.KE: MAYBE, P.CP: MAYBE, P.TS_I: ONE, P.TS_R: ONE})
NEW_IKE = Rule({P.SA: ONE, P.NONCE: ONE, P.KE: ONE})

# Order of payloads is not checked: RFC 7296 2.5 wants any order accepted.
RULES: Mapping[tuple[Phase, bool], Rule] = {
    (Phase.INIT, REQUEST): Rule({P.SA: ONE, P.KE: ONE, P.NONCE: ONE}, is_protected=False),
    (Phase.INIT, RESPONSE): Rule({P.SA: ONE, P.KE: ONE, P.NONCE: ONE, P.CERTREQ: CERTS}, is_protected=False),
    (Phase.AUTH, REQUEST): Rule(
        {
            P.ID_I: ONE,
            P.CERT: CERTS,
            P.CERTREQ: CERTS,
            P.ID_R: MAYBE,
            P.AUTH: MAYBE,  # absent where the initiator wants EAP (RFC 7296 2.16)
            P.CP: MAYBE,
            P.SA: MAYBE,  # absent with its selectors in a childless exchange (RFC 6023)
            P.TS_I: MAYBE,
            P.TS_R: MAYBE,
        },
        together=CHILD,
    ),
    (Phase.AUTH, RESPONSE): Rule(
        {
            P.ID_R: ONE,
            P.CERT: CERTS,
            P.AUTH: ONE,
            P.CP: MAYBE,
            P.SA: MAYBE,
            P.TS_I: MAYBE,
            P.TS_R: MAYBE,
        },
        together=CHILD,
    ),
    (Phase.CREATE_CHILD, REQUEST): NEW_CHILD,
    (Phase.CREATE_CHILD, RESPONSE): NEW_CHILD,
    (Phase.REKEY_IKE, REQUEST): NEW_IKE,
    (Phase.REKEY_IKE, RESPONSE): NEW_IKE,
    (Phase.INFORMATIONAL, REQUEST): Rule({P.DELETE: Count(0, MAX_DELETES), P.CP: MAYBE}),
    (Phase.INFORMATIONAL, RESPONSE): Rule({P.DELETE: Count(0, MAX_DELETES), P.CP: MAYBE}),
}
N = NotifyType
EXCUSES = frozenset({N.COOKIE, N.REDIRECT})
"""Status notifies that, as an error does, take the place of what a response would otherwise hold (RFC 7296 2.6)."""

PLACES: Mapping[NotifyType, frozenset[ExchangeType]] = {
    N.COOKIE: frozenset({ExchangeType.IKE_SA_INIT}),
    N.REDIRECT: frozenset({ExchangeType.IKE_SA_INIT, ExchangeType.IKE_AUTH, ExchangeType.INFORMATIONAL}),
    N.SIGNATURE_HASH_ALGORITHMS: frozenset({ExchangeType.IKE_SA_INIT}),
    N.IKEV2_FRAGMENTATION_SUPPORTED: frozenset({ExchangeType.IKE_SA_INIT}),
    N.NAT_DETECTION_SOURCE_IP: frozenset({ExchangeType.IKE_SA_INIT, ExchangeType.INFORMATIONAL}),
    N.NAT_DETECTION_DESTINATION_IP: frozenset({ExchangeType.IKE_SA_INIT, ExchangeType.INFORMATIONAL}),
    N.INITIAL_CONTACT: frozenset({ExchangeType.IKE_AUTH}),
    N.REKEY_SA: frozenset({ExchangeType.CREATE_CHILD_SA}),
    N.UPDATE_SA_ADDRESSES: frozenset({ExchangeType.INFORMATIONAL}),
}
"""Where a status notify means something. Elsewhere it is passed over, as RFC 7296 3.10.1 wants for any we do not expect."""

SIZES: Mapping[NotifyType, Count] = {
    N.UNSUPPORTED_CRITICAL_PAYLOAD: Count(1, 1),
    N.INVALID_KE_PAYLOAD: Count(2, 2),
    N.NAT_DETECTION_SOURCE_IP: Count(20, 20),  # a SHA-1 hash (RFC 7296 2.23)
    N.NAT_DETECTION_DESTINATION_IP: Count(20, 20),
    N.SET_WINDOW_SIZE: Count(4, 4),
    N.COOKIE: Count(1, 64),  # RFC 7296 2.6
    N.COOKIE2: Count(8, 64),  # RFC 4555 4.2.5
    N.SIGNATURE_HASH_ALGORITHMS: Count(2, 128),
}
"""Octets of data of notifies that we read."""


def check(message: Message, phase: Phase) -> Message:
    """The message as the handler of this phase may have it: without unknown payloads and notifies that mean nothing here.

    Raises `UnsupportedCriticalPayload`, or `MalformedMessage` where a payload is missing, out of place or too frequent.
    """
    header = message.header
    if header.exchange is not EXCHANGES[phase]:
        raise MalformedMessage(f"{title(header)}: no such exchange can come now")
    rule = RULES[phase, header.is_response]
    if rule.is_protected != message.is_protected or message.sealed is not None:
        raise MalformedMessage(f"{title(header)}: must {'' if rule.is_protected else 'not '}be encrypted")
    check_counts(message, rule)
    kept = tuple(payload for payload in message.payloads if is_kept(payload, header))
    return message if len(kept) == len(message.payloads) else msgspec.structs.replace(message, payloads=kept)


def check_counts(message: Message, rule: Rule) -> None:
    """Counts of each payload, and those that only come together."""
    counts: dict[PayloadType, int] = {}
    for payload in message.payloads:
        if type(payload) is Unknown:
            if payload.is_critical:
                text = f"{title(message.header)}: payload type {int(payload.TYPE)} is critical, and unknown here"
                raise UnsupportedCriticalPayload(text, bytes((payload.TYPE,)))
        else:
            counts[payload.TYPE] = counts.get(payload.TYPE, 0) + 1
    for kind, count in counts.items():
        most = rule.count(kind).most
        if count > most:
            raise MalformedMessage(f"{title(message.header)}: {kind.name}: at most {most}, not {count}")
    if message.header.is_response and is_excused(message):
        return
    for kind, (least, _) in rule.payloads.items():
        if counts.get(kind, 0) < least:
            raise MalformedMessage(f"{title(message.header)}: {kind.name}: at least {least}; there is none")
    present = [kind for kind in rule.together if kind in counts]
    if present and len(present) != len(rule.together):
        absent = [kind.name for kind in rule.together if kind not in counts]
        raise MalformedMessage(f"{title(message.header)}: {present[0].name} comes only with {', '.join(absent)}")


def is_excused(message: Message) -> bool:
    """Whether a response reports an error, or asks for another try, and so may leave out the rest."""
    return any(
        type(payload) is Notify and (payload.type.is_error or payload.type in EXCUSES) for payload in message.payloads
    )


def is_kept(payload: Payload, header: Header) -> bool:
    """Whether a handler should see it. Raises `MalformedMessage` where a notify we read is of the wrong size."""
    if type(payload) is Unknown:
        return False
    if type(payload) is not Notify:
        return True
    if payload.type.is_error and not header.is_response and header.exchange is not ExchangeType.INFORMATIONAL:
        return False
    places = PLACES.get(payload.type)
    if places is not None and header.exchange not in places:
        return False
    size = SIZES.get(payload.type)
    if size is not None and not size.least <= len(payload.data) <= size.most:
        raise MalformedMessage(
            f"N({payload.type.name}): data: {size.least} to {size.most} octets, not {len(payload.data)}"
        )
    return True


def title(header: Header) -> str:
    """A kind of message for people."""
    return f"{header.exchange.name} {'response' if header.is_response else 'request'}"
