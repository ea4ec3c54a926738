"""The options of the configuration: one field each, with its word, its default and its sentence in the guide.

What is checked here is the form of single values; what belongs together is checked by the model. A hyphen in a file is an
underscore here.
"""

import ipaddress
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

from openmoat.config.units import parse_octets, parse_seconds
from openmoat.crypto.identities import Identity, IdentityPattern
from openmoat.crypto.keys import parse_public_line
from openmoat.model.connection import EspProposal, IkeProposal
from openmoat.model.proposals import parse_esp_proposal, parse_ike_proposal
from openmoat.net import Address
from openmoat.policy.selectors import TrafficSelector

__all__ = [
    "MAX_REMEMBERED_TEXTS",
    "ChildLifetimesTable",
    "ChildTable",
    "ConnectionTable",
    "DaemonTable",
    "FileTable",
    "IkeLifetimesTable",
    "LocalTable",
    "PeerTable",
    "Table",
]

MAX_REMEMBERED_TEXTS = 1024
"""Of each kind of option: what thousands of connections have in common is read once, and is one object."""

Value = TypeVar("Value")


def _text(parse: Callable[[str], Value]) -> PlainValidator:
    parse = lru_cache(maxsize=MAX_REMEMBERED_TEXTS)(parse)

    def read(value: object) -> Value:
        if not isinstance(value, str):
            raise ValueError(f"text, {value!r} came")
        return parse(value)

    return PlainValidator(read)


def _workers(value: object) -> Literal["auto"] | int:
    if value == "auto":
        return "auto"
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"auto or a number, {value!r} came")
    return value


def _mss(value: object) -> object:
    if value in ("off", "fit") or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise ValueError(f"off, fit or a number, {value!r} came")


def _texts(parse: Callable[[str], Value]) -> PlainValidator:
    """One text or a list of them; all faults of the list are told."""
    parse = lru_cache(maxsize=MAX_REMEMBERED_TEXTS)(parse)

    def read(value: object) -> tuple[Value, ...]:
        members = [value] if isinstance(value, str) else value
        if not isinstance(members, list) or not all(isinstance(member, str) for member in members):
            raise ValueError(f"text or a list of texts, {value!r} came")
        values, faults = [], []
        for member in members:
            try:
                values.append(parse(member))
            except ValueError as error:
                faults.append(str(error))
        if faults:
            raise ValueError("; ".join(faults))
        return tuple(values)

    return PlainValidator(read)


def _host(text: str) -> str | Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return text


def _file(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError(f"a file name, {text!r} came")
    return text


Seconds = Annotated[float, PlainValidator(parse_seconds)]
OptionalSeconds = Annotated[float | None, PlainValidator(parse_seconds)]
Octets = Annotated[int, PlainValidator(parse_octets)]
File = Annotated[str | None, _text(_file)]
Files = Annotated[tuple[str, ...], _texts(_file)]
Count = Annotated[int, Field(ge=0)]


class Table(BaseModel):
    """One table of a file; a key that no field names is a fault."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, alias_generator=lambda name: name.replace("_", "-")
    )


class DaemonTable(Table):
    """`[daemon]`: what is not of one connection. Changes of all but `key-log` and `log-level` wait for the next start."""

    control_socket: str = Field(
        default="/run/openmoat/control.sock", description="Path of the socket that `moat` talks to."
    )
    control_group: str = Field(
        default="moat", description="Members of this group may use `moat`. Empty: only root and the user of `moatd`."
    )
    control_read_group: str = Field(
        default="", description="Members of this group may use the commands that only read. Empty: nobody else."
    )
    device: str = Field(default="moat0", description="Name of the TUN device.")
    on_stop: Literal["block", "open"] = Field(
        default="block",
        description="What protected traffic meets after a stop in good order: `block` lets nothing pass in clear until"
        " `moat cleanup`, `open` takes everything away. After a crash it is always blocked.",
    )
    cookie_threshold: int = Field(
        default=256, description="Half-open IKE SAs from which on strangers must return a cookie first (RFC 7296 2.6)."
    )
    max_half_open: int = Field(
        default=4096, description="Half-open IKE SAs as responder; further requests are dropped."
    )
    fragment_size: int = Field(
        default=1280, description="Octets of the largest IP packet that a large IKE message is cut into (RFC 7383)."
    )
    key_log: str = Field(
        default="",
        description="File that gets the keys of every IKE SA for Wireshark: whoever reads it reads everything."
        " Empty: none is written.",
    )
    log_level: Literal["error", "warning", "info", "debug"] = Field(
        default="info", description="Least level of log lines."
    )


class EngineTable(Table):
    """`[engine]`: threads of the packet engine, and what it leaves to the kernel. Changes wait for the next start."""

    workers: Annotated[Literal["auto"] | int, PlainValidator(_workers)] = Field(
        default="auto",
        description="Pairs of packet threads, each with a queue of the TUN device and sockets of its own; `auto`: one"
        " for every two cores, at most 16.",
    )
    tun_tso: bool = Field(default=True, description="Super-packets of TCP at the TUN device, both ways.")
    tun_uso: bool = Field(default=True, description="Super-packets of UDP at the TUN device, both ways (Linux 6.2).")
    udp_gso: bool = Field(
        default=True, description="Hand many ESP packets to the kernel as one datagram with segments (UDP GSO)."
    )
    udp_gro: bool = Field(default=True, description="Take ESP packets that the kernel has joined (UDP GRO).")


class LocalTable(Table):
    """`[connections.NAME.local]`: our own end."""

    identity: Annotated[Identity, _text(Identity.parse)] = Field(
        description="Who we say we are: `moat.example`, `user@moat.example`, `192.0.2.1`, `CN=moat,O=Example` or"
        " `keyid:0a1b2c`."
    )
    address: Annotated[Address | None, _text(ipaddress.ip_address)] = Field(
        default=None, description="Outside address to use. Default: what the route to the peer gives."
    )
    key: File = Field(default=None, description="File with our private key in PEM; see `moat keys generate`.")
    certificates: Files = Field(
        default=(),
        description="Files with our certificate, then its chain without the root, in PEM. None: a raw public key.",
    )
    psk: File = Field(default=None, description="File with the shared secret that we prove ourselves with.")


class PeerTable(Table):
    """`[connections.NAME.peer]`: the other end, or any of many."""

    addresses: Annotated[tuple[str | Address, ...], _texts(_host)] = Field(
        default=(),
        description="Where to reach it, in order of trial: addresses or DNS names. None: it must come to us.",
    )
    identity: Annotated[IdentityPattern, _text(IdentityPattern.parse)] = Field(
        description="Whom we accept: an identity as in `local`, or a pattern (`*.moats.example`, `*@example`, `*`),"
        " which makes the connection a template for many peers."
    )
    key: Annotated[bytes | None, _text(parse_public_line)] = Field(
        default=None, description="Its public key on one line, as `moat keys show` prints it (RFC 7670)."
    )
    key_file: File = Field(default=None, description="File with its public key in PEM, instead of `key`.")
    authorities: Files = Field(
        default=(), description="Files with certificates in PEM; the peer must show one that chains to any of these."
    )
    psk: File = Field(default=None, description="File with the shared secret that the peer proves itself with.")


class IkeLifetimesTable(Table):
    """`[connections.NAME.lifetimes]`: times of the IKE SA. 0 switches one off."""

    rekey_after: OptionalSeconds = Field(default=None, description="Rekey at this age. Default: 4h.")
    hard: OptionalSeconds = Field(
        default=None, description="Delete at this age, rekeyed or not. Default: an eighth later."
    )
    jitter: float = Field(
        default=0.1,
        description="Part of `rekey-after` that is subtracted by chance, so that thousands do not rekey at once.",
    )
    liveness_after: Seconds = Field(
        default=15.0, description="Ask the peer after so long without a sign of life (RFC 7296 2.4). Default: 15s."
    )


class ChildLifetimesTable(Table):
    """`[connections.NAME.children.CHILD.lifetimes]`: age and use of a Child SA. 0 switches one off."""

    rekey_after: OptionalSeconds = Field(default=None, description="Rekey at this age. Default: 1h.")
    hard: OptionalSeconds = Field(default=None, description="Stop at this age. Default: a sixth later.")
    jitter: float = Field(default=0.1, description="Part of `rekey-after` that is subtracted by chance.")
    rekey_octets: Octets = Field(
        default=0, description='Rekey after so many octets in either direction, such as "500GB".'
    )
    hard_octets: Octets = Field(default=0, description="Stop after so many octets.")
    rekey_packets: Count = Field(default=0, description="Rekey after so many packets in either direction.")
    hard_packets: Count = Field(default=0, description="Stop after so many packets.")


class ChildTable(Table):
    """`[connections.NAME.children.CHILD]`: what one Child SA protects."""

    local: Annotated[tuple[TrafficSelector, ...], _texts(TrafficSelector.parse)] = Field(
        description="Addresses at our end: `10.1.0.0/24`, `10.1.0.1-10.1.0.9`, `10.1.0.0/24[tcp/443]`,"
        " `2001:db8::/64[icmpv6/128]`; one or a list."
    )
    remote: Annotated[tuple[TrafficSelector, ...], _texts(TrafficSelector.parse)] = Field(
        description="Addresses at the other end; `0.0.0.0/0` and `::/0` send everything through the tunnel."
    )
    proposals: Annotated[tuple[EspProposal, ...] | None, _texts(parse_esp_proposal)] = Field(
        default=None,
        description="ESP algorithms in order of preference, such as `aes256gcm16` or `aes128-sha256-x25519-esn`; a key"
        " exchange in it asks for PFS. Default: AES-GCM and ChaCha20-Poly1305, then AES-CBC with SHA2-256, no PFS.",
    )
    start: Literal["auto", "trap", "none"] | None = Field(
        default=None,
        description="When we begin: `auto` at once and whenever it is lost, `trap` with the first packet, `none` only by"
        " `moat up` or by the peer. Default: `auto` where the peer has an address, else `none`.",
    )
    lifetimes: ChildLifetimesTable = Field(default=ChildLifetimesTable(), description="See below.")
    priority: int = Field(default=0, description="Lower is looked at first; equal ones by specificity.")
    replay_window: int = Field(
        default=1024, description="Packets that may come late; a multiple of 64. 0 needs `noesn`."
    )
    path_mtu: Annotated[int | None, BeforeValidator(lambda value: None if value == "discover" else value)] = Field(
        default=None,
        description="Octets of the largest packet that the outside carries, or `discover`, the default: they are found by"
        " probes that only the peer can answer, from 1280 up to 1500, and followed when the path changes.",
    )
    mtu_policy: Literal["virtual", "rfc4301", "clamp", "outer-fragments", "pre-fragment"] = Field(
        default="virtual",
        description="What is done with packets that are too large for one outer packet; see [sizes of packets](mtu.md).",
    )
    df: Literal["copy", "set", "clear", "ignore"] | None = Field(
        default=None,
        description="Don't Fragment of outer IPv4 packets; `ignore` fragments inner ones although they forbid it. Default: as"
        " `mtu-policy` has it.",
    )
    mss: Annotated[Literal["off", "fit"] | int | None, BeforeValidator(_mss)] = Field(
        default=None,
        description="Lower the MSS of TCP through the tunnel: `off`, `fit` for what fits into one outer packet, or a number"
        " of octets. Default: as `mtu-policy` has it.",
    )
    copy_dscp: bool = Field(default=True, description="Whether outer packets bear the DSCP of the inner ones.")
    icmp_check: Literal["outside", "strict"] = Field(
        default="outside",
        description="Which ICMP errors that come by the tunnel must quote a packet of it (RFC 4301 6.2): those whose addresses"
        " are outside `local` and `remote`, or all.",
    )
    tunnel_address: Annotated[tuple[Address, ...], _texts(ipaddress.ip_address)] = Field(
        default=(),
        description="Address inside `local` from which the gateway itself answers packets out of the tunnel by ICMP, where none"
        " of its own is inside; one, or a list with one of each family.",
    )
    aggfrag: Literal["prefer", "require", "never"] = Field(
        default="prefer",
        description="Slice and pack inner packets (AGGFRAG, RFC 9347), so that every size arrives whole: `prefer` where the"
        " peer can, `require` refuses a Child SA without it, `never` is plain tunnel mode.",
    )


class ConnectionTable(Table):
    """`[connections.NAME]`: one peer, or a template for many."""

    local: LocalTable = Field(description="Our own end; see below.")
    peer: PeerTable = Field(description="The other end; see below.")
    psk: File = Field(default=None, description="File with the shared secret of both ends, instead of one at each.")
    proposals: Annotated[tuple[IkeProposal, ...] | None, _texts(parse_ike_proposal)] = Field(
        default=None,
        description="IKE algorithms in order of preference, such as `aes256gcm16-prfsha256-x25519`. Default: AES-GCM and"
        " ChaCha20-Poly1305 with X25519 or ECP-256, then AES-CBC with SHA2-256, which also takes MODP-2048.",
    )
    lifetimes: IkeLifetimesTable = Field(default=IkeLifetimesTable(), description="See below.")
    retry: bool = Field(default=True, description="Try for ever, with growing pauses, where `start` is `auto`.")
    fragmentation: bool = Field(default=True, description="Cut large IKE messages (RFC 7383).")
    force_encapsulation: bool = Field(default=False, description="ESP in UDP also where there is no NAT.")
    outer_icmp: Literal["hint", "ignore", "trust"] = Field(
        default="hint",
        description="What is done when ICMP says that an ESP packet was too large for the way to the peer: `hint` asks by"
        " probes whether it is so, `trust` uses the size it names, `ignore` does nothing.",
    )
    group: str | None = Field(
        default=None,
        description="Connections with the same `group` are alternatives: they may protect the same networks, and one of them"
        " carries the traffic.",
    )
    order: int = Field(
        default=0, description="Which connection of a `group` is tried first: the lowest; equal ones by name."
    )
    children: dict[str, ChildTable] = Field(description="What is protected; one table for each Child SA.", min_length=1)


class FileTable(Table):
    """The file itself."""

    include: str | None = Field(
        default=None,
        description="Directory whose `*.toml` files are read too, each with `[connections.NAME]` tables; relative to this"
        " file. One connection a file keeps thousands of them in order.",
    )
    daemon: DaemonTable = Field(default=DaemonTable(), description="Settings of `moatd`; see below.")
    engine: EngineTable = Field(default=EngineTable(), description="Settings of the packet engine; see below.")
    connections: dict[str, ConnectionTable] = Field(
        default_factory=dict, description="The connections, by name; see below."
    )
