"""Requests and replies of the control socket: HTTP and JSON, every reply with the name and version of its schema.

Times are seconds since the epoch, SPIs hexadecimal text, selectors and identities their text forms. Readers ignore
fields they do not know: a field may be added within a version, and none changes its meaning.
"""

from collections.abc import Mapping
from enum import Enum, StrEnum
from typing import Any, Generic, Literal, Self, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from openmoat.control.reasons import Reason

__all__ = [
    "EVENT_SILENCE",
    "KEEPALIVE_SECONDS",
    "ROUTES",
    "Access",
    "BlackHole",
    "Candidate",
    "ChildSizes",
    "ChildStatus",
    "ConnectionState",
    "ConnectionStatus",
    "Connections",
    "Counters",
    "Done",
    "Entry",
    "ErrorCode",
    "ErrorReply",
    "Failure",
    "GroupStatus",
    "IkeStatus",
    "Log",
    "Loop",
    "Message",
    "OutsideSize",
    "Part",
    "PeerStatus",
    "Reloaded",
    "Reply",
    "Route",
    "Routes",
    "Status",
    "Version",
]

KEEPALIVE_SECONDS = 15.0
"""A stream of events carries a comment at least this often, so that both ends notice when the other is gone."""
EVENT_SILENCE = 4 * KEEPALIVE_SECONDS
"""A client takes a daemon for dead whose stream of events is silent for longer."""


class Access(Enum):
    """What a caller must be allowed, by SO_PEERCRED."""

    READ = "read"
    """root, the user of `moatd`, members of `control-group` and of `control-read-group`."""
    CHANGE = "change"
    """root, the user of `moatd`, members of `control-group`."""


class ErrorCode(StrEnum):
    """Everything that can be wrong with a request; the guide has a sentence for each."""

    UNKNOWN_CONNECTION = "unknown-connection"
    UNKNOWN_PEER = "unknown-peer"
    UNKNOWN_PATH = "unknown-path"
    UNKNOWN_METHOD = "unknown-method"
    BAD_REQUEST = "bad-request"
    NOT_PERMITTED = "not-permitted"
    CONFIGURATION = "configuration"
    """The configuration has errors; the text holds all of them, and nothing was changed."""
    TEMPLATE = "template"
    """A template cannot be started here: its peers start it."""
    BUSY = "busy"
    INTERNAL = "internal"
    NO_DAEMON = "no-daemon"
    """Nobody listens on the socket. Said by the client."""
    BAD_REPLY = "bad-reply"
    """Not the reply of a `moatd` of this version. Said by the client."""


class ConnectionState(StrEnum):
    """What a connection is now."""

    UP = "up"
    """An IKE SA and a Child SA for every child that was wanted."""
    REKEYING = "rekeying"
    """Up, with successors being negotiated."""
    CONNECTING = "connecting"
    DOWN = "down"
    """Wanted, and not there."""
    WAITING = "waiting"
    """For the peer, for traffic (`trap`), or for `moat up`; a template while none of its peers is up."""
    STOPPED = "stopped"
    """By `moat down`, until `moat up` or a change of the connection."""


class Part(msgspec.Struct, frozen=True):
    """Part of a reply."""

    @classmethod
    def from_json(cls, octets: bytes | str) -> Self:
        """Read and check it; `ValueError` names the field that is wrong. Unknown fields are ignored."""
        return msgspec.json.decode(octets, type=cls)

    def to_json(self) -> bytes:
        """As one line of JSON."""
        return msgspec.json.encode(self)


class Message(Part, frozen=True, tag_field="schema"):
    """A whole reply; `schema`, its name and version, is the first field."""

    @classmethod
    def schema(cls) -> str:
        """Name and version, such as `moat.status/1`."""
        return str(cls.__struct_config__.tag)


class Counters(Part, frozen=True, kw_only=True):
    """Inner packets since the daemon started, summed over all SAs of before and now."""

    inbound_packets: int = 0
    inbound_octets: int = 0
    outbound_packets: int = 0
    outbound_octets: int = 0


class BlackHole(Part, frozen=True, kw_only=True):
    """Packets of a size that had been proved did not get through any more."""

    at: float
    before: int
    after: int
    """Octets that were found to get through instead."""


class OutsideSize(Part, frozen=True, kw_only=True):
    """What is known of the way to a peer. Sizes are octets of outer packets."""

    size: int
    learned: Literal["base", "probe", "hint", "icmp"]
    """Assumed of every path; proved by a probe that the peer answered; named by ICMP and proved; named by ICMP alone."""
    at: float | None = None
    """When it was last proved."""
    phase: Literal["base", "search", "complete", "error"]
    """Of the search (RFC 8899 5.2)."""
    probing: int | None = None
    """The size that is being probed."""
    probing_fragments: bool = False
    """It is being found out, or about to be, if IP fragments reach the peer."""
    fragments_pass: bool | None = None
    """Whether IP fragments reach the peer; None: not found out yet."""
    hints: int = 0
    """Times that something was done because ICMP named a size."""
    black_hole: BlackHole | None = None
    """The last one."""


# Many attributes: one field of the JSON for each thing that is counted; a nesting would only hide them.
class ChildSizes(Part, frozen=True, kw_only=True):
    """What is done about sizes on one child, and what it came to since the daemon started, over all its SAs. Only where one
    connection was asked for.
    """

    outer_size: int
    """Octets of the largest outer packet that leaves in one piece."""
    is_configured: bool
    """By `path-mtu`, instead of found out."""
    inner_room: int
    """Octets of inner packets in one outer packet."""
    slices_all: bool = False
    """Whether larger packets are sliced, so that every size fits (RFC 9347)."""
    ladder: tuple[str, ...] = ()
    """What is tried otherwise with a larger packet, in order."""
    whole: int = 0
    """Inner packets that left whole, those packed with others among them."""
    packed: int = 0
    sliced: int = 0
    slices: int = 0
    assembled: int = 0
    """Inner packets put together from the peer's slices."""
    marks: int = 0
    """Outer packets of an AGGFRAG SA that came marked: congestion experienced."""
    deeds: dict[str, int] = {}
    """Inner packets that did not fit, by the rung that let them through or refused them; `clamp` counts SYNs."""
    drops: dict[str, int] = {}
    """By reason."""


class IkeStatus(Part, frozen=True, kw_only=True):
    """One IKE SA."""

    spi: str
    """Ours, 16 digits."""
    peer_spi: str
    is_initiator: bool
    suite: str
    """As the configuration writes it."""
    path: str
    """`local - remote`, with ports."""
    behind_nat: bool
    peer_behind_nat: bool
    own_method: str
    peer_method: str
    since: float
    rekey_at: float | None = None
    outside: OutsideSize | None = None


# Many attributes: the fields of one row of the JSON.
class ChildStatus(Part, frozen=True, kw_only=True):
    """One Child SA."""

    name: str
    local_spi: str
    """8 digits; the handle of the pair."""
    remote_spi: str
    suite: str
    encapsulation: Literal["udp", "raw"]
    aggfrag: bool = False
    """Inner packets are sliced and packed (RFC 9347)."""
    takes_slices: bool = True
    """With `aggfrag`: the peer puts slices together."""
    local: str
    """Selectors, separated by commas."""
    remote: str
    since: float
    is_rekeying: bool = False
    counters: Counters = Counters()
    """Of all SAs that this child has had with the peer; while it is being rekeyed only with the newest."""
    sizes: ChildSizes | None = None


class GroupStatus(Part, frozen=True, kw_only=True):
    """Where a connection stands among the alternatives of its group."""

    name: str
    order: int
    carries: tuple[str, ...] = ()
    """Children whose packets leave by this connection now."""
    since: float | None = None
    """Since when; None where it carries nothing."""
    text: str = ""
    """Which connection carries, since when, and why that one."""


class PeerStatus(Part, frozen=True, kw_only=True):
    """One peer of a connection, by its authenticated identity; a template may have many."""

    identity: str
    since: float = 0.0
    """When it came, or where it has no IKE SA now, when it went."""
    reason: Reason | None = None
    """Why it has no IKE SA now; None while it has one."""
    text: str = ""
    """Detail of the reason."""
    last_in: float | None = None
    """When a packet from it was last counted. Counters are read every few seconds while packets flow."""
    last_out: float | None = None
    """The same of packets to it."""
    ike: IkeStatus | None = None
    children: tuple[ChildStatus, ...] = ()
    counters: Counters = Counters()


class Candidate(Part, frozen=True, kw_only=True):
    """A connection that might have been meant, and the first field on which it and the peer part."""

    connection: str
    field: str
    ours: str
    received: str


class Failure(Part, frozen=True, kw_only=True):
    """The explanation of a failed negotiation."""

    number: int
    at: float
    peer: str
    """Address and port it came from or went to."""
    reason: Reason
    summary: str
    received: tuple[str, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    """Nearest first, at most 16."""
    advice: str = ""


# Many attributes: the fields of one row of the JSON.
class ConnectionStatus(Message, frozen=True, kw_only=True, tag="moat.connection/1"):
    """One connection, as it is."""

    name: str
    state: ConnectionState
    since: float
    """When this state began."""
    reason: Reason | None = None
    """Why it is not up; None while it is."""
    text: str = ""
    """Detail of the reason: what was received, or the name that does not resolve."""
    retry_at: float | None = None
    """When the next attempt begins."""
    is_template: bool = False
    start: Literal["auto", "trap", "none"] = "none"
    """The most eager of its children."""
    local: str
    """Our identity."""
    remote: str
    """The peer's identity, or the pattern."""
    addresses: tuple[str, ...] = ()
    group: GroupStatus | None = None
    """None: it has no alternatives."""
    source: str = ""
    """File in which it is configured."""
    peers: tuple[PeerStatus, ...] = ()
    failure: Failure | None = None
    """The last failure; only where one connection was asked for."""

    @property
    def is_up(self) -> bool:
        """Whether it carries traffic now."""
        return self.state in {ConnectionState.UP, ConnectionState.REKEYING}


class Connections(Message, frozen=True, kw_only=True, tag="moat.connections/1"):
    """All connections, by name."""

    connections: tuple[ConnectionStatus, ...] = ()


class Loop(Part, frozen=True, kw_only=True):
    """The event loop since the daemon was ready; seconds."""

    count: int = 0
    """Turns: what was done from one wait to the next."""
    longest: float = 0.0
    """CPU time of the longest one."""
    too_long: int = 0
    """Turns that took more CPU time than 20 ms."""
    longest_pause: float = 0.0
    """The longest one by the wall clock: whatever else the machine did is in it."""
    collections: int = 0
    """Of the garbage collector that looked at all that is not frozen."""
    longest_collection: float = 0.0
    """By the wall clock."""


class Status(Message, frozen=True, kw_only=True, tag="moat.status/1"):
    """The daemon as a whole, and its connections."""

    version: str
    now: float
    since: float
    """Start of the daemon."""
    configuration: str
    """Path of its file."""
    device: str = ""
    warnings: tuple[str, ...] = ()
    """What suffers now, each with what to do about it."""
    drops: dict[str, int] = {}
    """Packets and datagrams dropped since the start, by name of the reason."""
    offloads: dict[str, str] = {}
    """What the kernel does for the packet engine: `on`, or `off: ` and why, by the name of the option in `[engine]`."""
    loop: Loop = Loop()
    """How long the daemon's turns take."""
    unknown_peers: tuple[Failure, ...] = ()
    """The newest failures of peers that belong to no connection."""
    connections: tuple[ConnectionStatus, ...] = ()


class Version(Message, frozen=True, kw_only=True, tag="moat.version/1"):
    """What answers."""

    version: str


class Done(Message, frozen=True, kw_only=True, tag="moat.done/1"):
    """A change was accepted; what comes of it is told by events and by status."""

    text: str
    connection: str = ""


class Reloaded(Message, frozen=True, kw_only=True, tag="moat.reloaded/1"):
    """What a reload changed."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: dict[str, str] = {}
    """Name to what the change needs: live, rekey, reauthenticate or re-establish."""
    unchanged: int = 0
    refused: dict[str, str] = {}
    """Name to the reason for which a connection could not be taken in."""
    restart_needed: tuple[str, ...] = ()
    """Settings of the daemon that changed and wait for its next start."""


class Entry(Part, frozen=True, kw_only=True):
    """One line of the journal; also the data of each server-sent event."""

    number: int
    at: float
    level: Literal["debug", "info", "warning", "error"]
    kind: str
    text: str
    fields: dict[str, str] = {}


class Log(Message, frozen=True, kw_only=True, tag="moat.log/1"):
    """The newest entries of the journal, oldest first."""

    entries: tuple[Entry, ...] = ()


class ErrorReply(Message, frozen=True, kw_only=True, tag="moat.error/1"):
    """What every reply but those of status 200 holds."""

    code: ErrorCode
    text: str
    hint: str = ""


Reply = TypeVar("Reply", bound=Part)


class Route(Part, Generic[Reply], frozen=True, kw_only=True):
    """One request: method, path, what the caller must be allowed, and the reply. `{name}` is a connection."""

    method: Literal["GET", "POST"]
    path: str
    access: Access
    reply: type[Reply]
    is_stream: bool = False
    """Server-sent events without an end, each with a `reply` as its data."""

    def target(self, query: Mapping[str, int], names: Mapping[str, str]) -> str:
        """Path and query as they stand in the request line; `ValueError` where a name would make it another path."""
        for name in names.values():
            if name in {"", ".", ".."}:
                raise ValueError(f'"{name}" is no name')
        path = self.path.format(**{key: quote(name, safe="") for key, name in names.items()})
        return f"{path}?{urlencode(query)}" if query else path


class Routes:
    """Every request there is, for both ends."""

    VERSION = Route(method="GET", path="/v1/version", access=Access.READ, reply=Version)
    STATUS = Route(method="GET", path="/v1/status", access=Access.READ, reply=Status)
    CONNECTIONS = Route(method="GET", path="/v1/connections", access=Access.READ, reply=Connections)
    CONNECTION = Route(method="GET", path="/v1/connections/{name}", access=Access.READ, reply=ConnectionStatus)
    UP = Route(method="POST", path="/v1/connections/{name}/up", access=Access.CHANGE, reply=Done)
    DOWN = Route(method="POST", path="/v1/connections/{name}/down", access=Access.CHANGE, reply=Done)
    REKEY = Route(method="POST", path="/v1/connections/{name}/rekey", access=Access.CHANGE, reply=Done)
    PEER_DOWN = Route(method="POST", path="/v1/connections/{name}/peers/{peer}/down", access=Access.CHANGE, reply=Done)
    PEER_REKEY = Route(
        method="POST", path="/v1/connections/{name}/peers/{peer}/rekey", access=Access.CHANGE, reply=Done
    )
    PEER_DELETE = Route(
        method="POST", path="/v1/connections/{name}/peers/{peer}/delete", access=Access.CHANGE, reply=Done
    )
    PROBE = Route(method="POST", path="/v1/connections/{name}/probe", access=Access.CHANGE, reply=Done)
    RELOAD = Route(method="POST", path="/v1/reload", access=Access.CHANGE, reply=Reloaded)
    LOG = Route(method="GET", path="/v1/log", access=Access.READ, reply=Log)
    """`last` in the query is how many entries are wanted."""
    EVENTS = Route(method="GET", path="/v1/events", access=Access.READ, reply=Entry, is_stream=True)


ROUTES: tuple[Route[Any], ...] = tuple(row for row in vars(Routes).values() if isinstance(row, Route))
