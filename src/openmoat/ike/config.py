"""Settings of an `Endpoint`, and the names of everything it counts."""

from dataclasses import dataclass, field
from enum import StrEnum

from openmoat.crypto.suites import EspSuite
from openmoat.ike.window import RetransmissionSchedule

__all__ = ["Backoff", "Count", "IkeConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to wait before a connection is tried again. Seconds; a random part of up to a quarter is added."""

    first: float = 1.0
    factor: float = 2.0
    longest: float = 16.0
    """A peer that was away must be reached again within a minute, and an attempt alone may take half of it."""
    longest_refused: float = 120.0
    """Where the peer answered and said no: somebody must change a setting first."""

    def wait(self, failures: int, *, is_refusal: bool) -> float:
        """Seconds after so many failures in a row, 1 and up."""
        longest = self.longest_refused if is_refusal else self.longest
        return min(longest, self.first * self.factor ** min(failures - 1, 16))


# Many attributes: one for each setting.
@dataclass(frozen=True, slots=True, kw_only=True)
class IkeConfig:
    """Settings of all IKE SAs of one host. Times in seconds, sizes in octets."""

    esp_suites: frozenset[EspSuite] | None = None
    """What the data plane can keep; nothing else is offered or accepted. None: everything we know."""
    aggfrag: bool = True
    """The data plane slices and packs inner packets (RFC 9347); where it does not, nobody is asked for it."""
    vendor_id: bytes = b"OpenMoat"
    """Sent in IKE_SA_INIT; empty: none is."""
    cookie_threshold: int = 256
    """Half-open IKE SAs from which on unknown peers must return a cookie first (RFC 7296 2.6)."""
    max_half_open: int = 4096
    """Half-open IKE SAs as responder; further requests are dropped."""
    max_half_open_per_source: int = 256
    """The same from one address: many peers may stand behind one NAT."""
    half_open_life: float = 30.0
    """A responder's IKE SA that is not established after this time is forgotten."""
    handshake_life: float = 60.0
    """An initiator's IKE SA that is not established after this time on one path is given up."""
    question_life: float = 15.0
    """A question that has no answer after this time counts as one that cannot be answered."""
    max_ike_sas_per_peer: int = 8
    """IKE SAs of one identity on one connection; the oldest goes when there would be more."""
    max_lingering: int = 1024
    """Closed and replaced IKE SAs that are kept for a short time to answer a repeated last request."""
    max_children: int = 64
    """Child SAs of one IKE SA; further ones are refused with NO_ADDITIONAL_SAS."""
    retransmission: RetransmissionSchedule = field(default_factory=RetransmissionSchedule)
    backoff: Backoff = field(default_factory=Backoff)
    fragment_size: int = 1280
    """Largest IP packet a fragmented IKE message is cut into (RFC 7383 2.5.1)."""
    spi_stock: int = 64
    """Reserved ESP SPIs held at hand; refilled at half."""
    answers_per_second: float = 10.0
    """Bound on the unprotected error messages sent to unknown peers (RFC 7296 2.21.4)."""
    reveal_keys: bool = False
    """Emit `IkeSaKeys` for a key log."""


class Count(StrEnum):
    """Everything counted that is not news by itself: why octets were dropped, and which bound was hit."""

    MALFORMED = "malformed"
    UNKNOWN_SPI = "unknown_spi"
    STRAY_RESPONSE = "stray_response"
    INIT_REFUSED = "init_refused"
    INIT_TOO_LONG = "init_too_long"
    UNSUPPORTED_VERSION = "unsupported_version"
    BAD_ICV = "bad_icv"
    NOT_PROTECTED = "not_protected"
    WRONG_ROLE_FLAG = "wrong_role_flag"
    REPEATED_REQUEST = "repeated_request"
    BUSY_REQUEST = "busy_request"
    STALE_REQUEST = "stale_request"
    REQUEST_AHEAD = "request_ahead"
    UNEXPECTED_RESPONSE = "unexpected_response"
    UNEXPECTED_REQUEST = "unexpected_request"
    FRAGMENT_REFUSED = "fragment_refused"
    HELD_TOO_MANY = "held_too_many"
    COOKIE_DEMANDED = "cookie_demanded"
    COOKIE_REFUSED = "cookie_refused"
    HALF_OPEN_LIMIT = "half_open_limit"
    HALF_OPEN_SOURCE_LIMIT = "half_open_source_limit"
    HALF_OPEN_EXPIRED = "half_open_expired"
    CLOSING = "closing"
    ANSWER_RATE_LIMIT = "answer_rate_limit"
    UNAUTHENTICATED_ERROR = "unauthenticated_error"
    INIT_RESTART_LIMIT = "init_restart_limit"
    EXCHANGE_QUEUE_LIMIT = "exchange_queue_limit"
    LINGERING_LIMIT = "lingering_limit"
    CHILDREN_LIMIT = "children_limit"
    IKE_SAS_PER_PEER_LIMIT = "ike_sas_per_peer_limit"
    SPI_STOCK_EMPTY = "spi_stock_empty"
    CANDIDATES_LIMIT = "candidates_limit"
    LABELS_LIMIT = "labels_limit"
    NOTED_PROPOSALS_LIMIT = "noted_proposals_limit"
    LATE_ANSWER = "late_answer"
    RETRANSMITTED = "retransmitted"
