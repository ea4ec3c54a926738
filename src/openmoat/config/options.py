"""All options of the configuration file: one row each. To add one, add its row here and its field, with type and default, to the model.

Reader, difference, guide and writer are derived from these tables. Most rows have no `field`, as the field of the model has
the name of the option, and no `default`, as the model has it.
"""

import ipaddress

from openmoat.config.kinds import (
    FILE,
    FILES,
    FLAG,
    FRACTION,
    NUMBER,
    OCTETS,
    SECONDS,
    TEXT,
    choice,
    either,
    one_of,
    text,
    texts,
)
from openmoat.config.rows import AT_START, Inner, Many, Need, Option, Table
from openmoat.crypto.identities import Identity, IdentityPattern, PatternKind
from openmoat.crypto.keys import parse_public_line, public_line
from openmoat.crypto.numbers import IdType
from openmoat.model.connection import (
    Aggfrag,
    Child,
    ChildLifetimes,
    Connection,
    IcmpCheck,
    IkeLifetimes,
    OuterIcmp,
    Peer,
    Start,
)
from openmoat.model.proposals import (
    DEFAULT_ESP_PROPOSALS,
    DEFAULT_IKE_PROPOSALS,
    format_esp_proposal,
    format_ike_proposal,
    parse_esp_proposal,
    parse_ike_proposal,
)
from openmoat.model.settings import LOG_LEVELS, EngineSettings, OnStop, Settings
from openmoat.mtu.words import Df, MssRule, MtuPolicy
from openmoat.net import Address
from openmoat.policy.selectors import TrafficSelector

__all__ = [
    "CHILD",
    "CHILD_LIFETIMES",
    "CONNECTION",
    "DAEMON",
    "ENGINE",
    "FILE_ITSELF",
    "IDENTITY",
    "IKE_LIFETIMES",
    "LOCAL",
    "PEER",
    "TABLES",
]


def _address(word: str) -> Address:
    try:
        address = ipaddress.ip_address(word)
    except ValueError:
        raise ValueError(f'an address such as 192.0.2.1 or 2001:db8::1, not "{word}"') from None
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise ValueError(f'an address without a zone, not "{word}"')
    return address


def _host(word: str) -> str | Address:
    """An address, or what may be a DNS name: the model knows which names can be."""
    return _address(word) if ":" in word or word.replace(".", "").isdecimal() else word


SOMEBODY = Identity(IdType.FQDN, b"somebody.invalid")
EVERYWHERE = (TrafficSelector.parse("0.0.0.0/0"), TrafficSelector.parse("::/0"))

IDENTITY = text("an identity", Identity.parse)
PATTERN = text("an identity or a pattern", IdentityPattern.parse)
ADDRESS = text("an address", _address)
ADDRESSES = texts("an address", _address)
HOSTS = texts("an address or a DNS name", _host)
SELECTORS = texts("addresses", TrafficSelector.parse)
PUBLIC_KEY = text("a public key", parse_public_line, public_line)
IKE_PROPOSALS = texts("a proposal", parse_ike_proposal, format_ike_proposal)
ESP_PROPOSALS = texts("a proposal", parse_esp_proposal, format_esp_proposal)

DAEMON = Table(
    "[daemon]",
    "settings of `moatd`",
    Settings,
    (
        Option("control-socket", TEXT, AT_START, "Path of the socket that `moat` talks to."),
        Option(
            "control-group",
            TEXT,
            AT_START,
            "Members of this group may use `moat`. Empty: only root and the user of `moatd`.",
        ),
        Option(
            "control-read-group",
            TEXT,
            AT_START,
            "Members of this group may use the commands that only read. Empty: nobody else.",
        ),
        Option("device", TEXT, AT_START, "Name of the TUN device."),
        Option(
            "on-stop",
            choice(OnStop),
            AT_START,
            "What happens to protected traffic after `moatd` has been stopped: `block` lets nothing out unencrypted until"
            " `moat cleanup`, `open` removes all routes and rules. After a crash traffic is always blocked.",
        ),
        Option(
            "cookie-threshold",
            NUMBER,
            AT_START,
            "From this number of half-open IKE SAs on, unknown peers must return a cookie first (RFC 7296 2.6).",
        ),
        Option(
            "max-half-open", NUMBER, AT_START, "Half-open IKE SAs as responder at most; further requests are dropped."
        ),
        Option(
            "fragment-size",
            NUMBER,
            AT_START,
            "Octets of the largest IP packet that carries a fragment of an IKE message (RFC 7383).",
        ),
        Option(
            "key-log",
            TEXT,
            Need.LIVE,
            "File to which the keys of every IKE SA are written for Wireshark. Who can read it can decrypt all traffic."
            " Empty: none is written.",
        ),
        Option("log-level", one_of(LOG_LEVELS), Need.LIVE, "Least level of log lines."),
    ),
)
ENGINE = Table(
    "[engine]",
    "threads of the packet engine, and what it leaves to the kernel",
    EngineSettings,
    (
        Option(
            "workers",
            either({"auto": "auto"}, NUMBER),
            AT_START,
            "Pairs of packet threads, each with its own queue of the TUN device and its own sockets; `auto`: one for every"
            " two cores, at most 16.",
        ),
        Option("tun-tso", FLAG, AT_START, "Exchange TCP super-packets with the TUN device."),
        Option("tun-uso", FLAG, AT_START, "Exchange UDP super-packets with the TUN device (Linux 6.2)."),
        Option("udp-gso", FLAG, AT_START, "Send many ESP packets as one datagram that the kernel divides (UDP GSO)."),
        Option("udp-gro", FLAG, AT_START, "Receive ESP packets that the kernel has joined (UDP GRO)."),
    ),
)
LOCAL = Table(
    "[connections.NAME.local]",
    "this end",
    Connection,
    (
        Option(
            "identity",
            IDENTITY,
            Need.REAUTHENTICATE,
            "Who we are: `moat.example`, `user@moat.example`, `192.0.2.1`, `CN=moat,O=Example` or `keyid:0a1b2c`.",
            field="local_identity",
            instead=SOMEBODY,
        ),
        Option(
            "address",
            ADDRESS,
            Need.REAUTHENTICATE,
            "Outer address to use. Default: as the route to the peer gives it.",
            field="local_address",
        ),
        Option(
            "key",
            FILE,
            Need.REAUTHENTICATE,
            "File with our private key in PEM; see `moat keys generate`.",
            part_of="own",
            default=None,
        ),
        Option(
            "certificates",
            FILES,
            Need.REAUTHENTICATE,
            "Files with our certificate, then its chain without the root, in PEM. None: a raw public key (RFC 7670).",
            part_of="own",
            default=None,
        ),
        Option(
            "psk",
            FILE,
            Need.REAUTHENTICATE,
            "File with the pre-shared key by which we authenticate ourselves.",
            part_of="own",
            default=None,
        ),
    ),
)
PEER = Table(
    "[connections.NAME.peer]",
    "the other end, or any of many",
    Peer,
    (
        Option(
            "addresses",
            HOSTS,
            Need.LIVE,  # identity is a key, never an address: an SA that is up is not touched
            "Where to reach the peer, in order of trial: addresses or DNS names. None: the peer must come to us.",
            instead=("somebody.invalid",),
        ),
        Option(
            "identity",
            PATTERN,
            Need.REESTABLISH,  # the peer that is up may not be accepted any more
            "Whom we accept: an identity as in `local`, or a pattern (`*.moats.example`, `*@example`, `*`), which makes the"
            " connection a template for many peers.",
            instead=IdentityPattern(PatternKind.EXACT, SOMEBODY),
        ),
        Option(
            "key",
            PUBLIC_KEY,
            Need.REESTABLISH,  # a key that was taken away must not go on working
            "Its public key on one line, as `moat keys show` prints it (RFC 7670).",
            part_of="credential",
            default=None,
        ),
        Option(
            "key-file",
            FILE,
            Need.REESTABLISH,
            "File with its public key in PEM, instead of `key`.",
            part_of="credential",
            default=None,
        ),
        Option(
            "ca-certificates",
            FILES,
            Need.REESTABLISH,
            "Files with CA certificates in PEM; the peer must present a certificate that chains to one of them.",
            part_of="credential",
            default=None,
        ),
        Option(
            "psk",
            FILE,
            Need.REESTABLISH,
            "File with the pre-shared key by which the peer authenticates itself.",
            part_of="credential",
            default=None,
        ),
    ),
)
IKE_LIFETIMES = Table(
    "[connections.NAME.lifetimes]",
    "times of the IKE SA. 0 switches one off",
    IkeLifetimes,
    (
        Option("rekey-after", SECONDS, Need.LIVE, "Rekey at this age. Where only `hard` is given: eight ninths of it."),
        Option(
            "hard",
            SECONDS,
            Need.LIVE,
            "Delete at this age, rekeyed or not. Where only `rekey-after` is given: an eighth later.",
        ),
        Option(
            "jitter",
            FRACTION,
            Need.LIVE,
            "Largest part of `rekey-after` that is subtracted at random, so that thousands of SAs do not rekey at once.",
        ),
        Option(
            "liveness-after",
            SECONDS,
            Need.LIVE,
            "Check that the peer is alive after this time without a packet from it (RFC 7296 2.4).",
        ),
    ),
    together=("rekey-after", "hard"),
)
CHILD_LIFETIMES = Table(
    "[connections.NAME.children.CHILD.lifetimes]",
    "age and use of a Child SA. 0 switches one off",
    ChildLifetimes,
    (
        Option("rekey-after", SECONDS, Need.LIVE, "Rekey at this age. Where only `hard` is given: six sevenths of it."),
        Option("hard", SECONDS, Need.LIVE, "Stop at this age. Where only `rekey-after` is given: a sixth later."),
        Option("jitter", FRACTION, Need.LIVE, "Largest part of `rekey-after` that is subtracted at random."),
        Option("rekey-octets", OCTETS, Need.LIVE, 'Rekey after this many octets in either direction, such as "500GB".'),
        Option("hard-octets", OCTETS, Need.LIVE, "Stop after this many octets in either direction."),
        Option("rekey-packets", NUMBER, Need.LIVE, "Rekey after this many packets in either direction."),
        Option("hard-packets", NUMBER, Need.LIVE, "Stop after this many packets in either direction."),
    ),
    together=("rekey-after", "hard"),
)
CHILD = Table(
    "[connections.NAME.children.CHILD]",
    "what one Child SA protects",
    Child,
    (
        Option(
            "local",
            SELECTORS,
            Need.REESTABLISH,
            "Addresses at our end: `10.1.0.0/24`, `10.1.0.1-10.1.0.9`, `10.1.0.0/24[tcp/443]`, `2001:db8::/64[icmpv6/128]`.",
            instead=EVERYWHERE,
        ),
        Option(
            "remote",
            SELECTORS,
            Need.REESTABLISH,
            "Addresses at the other end; `0.0.0.0/0` and `::/0` send everything through the tunnel.",
            instead=EVERYWHERE,
        ),
        Option(
            "proposals",
            ESP_PROPOSALS,
            Need.REKEY,
            "ESP algorithms in order of preference, such as `aes256gcm16` or `aes128-sha256-x25519-esn`; a key exchange in"
            " it asks for PFS. Default: AES-GCM and ChaCha20-Poly1305, then AES-CBC with SHA2-256, no PFS.",
            default=DEFAULT_ESP_PROPOSALS,
        ),
        Option(
            "start",
            choice(Start),
            Need.LIVE,
            "When we initiate: `auto` at once and again when it is lost, `trap` with the first packet, `none` only by"
            " `moat up` or by the peer. Default: `auto` where the peer has an address, else `none`.",
            default=None,
        ),
        Inner("lifetimes", CHILD_LIFETIMES, "See below."),
        Option("priority", NUMBER, Need.LIVE, "The lowest is looked at first; equal ones by specificity."),
        Option(
            "replay-window",
            NUMBER,
            Need.REKEY,
            "Packets that may arrive late; a multiple of 64. 0 needs `noesn`.",
        ),
        Option(
            "path-mtu",
            either({"discover": None}, NUMBER),
            Need.LIVE,
            "Octets of the largest packet that the path carries; `discover`: found by probes that only the peer can"
            " answer, from 1280 up to 1500, and again when the path changes.",
        ),
        Option(
            "mtu-policy",
            choice(MtuPolicy),
            Need.LIVE,
            "What is done with packets that are too large for one outer packet; see [sizes of packets](mtu.md).",
        ),
        Option(
            "df",
            choice(Df),
            Need.LIVE,
            "Don't Fragment of outer IPv4 packets; `ignore` fragments inner packets although they forbid it. Default: as"
            " `mtu-policy` has it.",
        ),
        Option(
            "mss",
            either({rule.value: rule for rule in MssRule}, NUMBER),
            Need.LIVE,
            "Lower the MSS of TCP through the tunnel: `off`, `fit` for what fits into one outer packet, or a number of"
            " octets. Default: as `mtu-policy` has it.",
        ),
        Option("copy-dscp", FLAG, Need.REKEY, "Copy the DSCP of inner packets to the outer ones."),
        Option(
            "icmp-check",
            choice(IcmpCheck),
            Need.REKEY,
            "Which ICMP errors from the tunnel must quote a packet that was sent through it (RFC 4301 6.2): those whose"
            " addresses are outside `local` and `remote`, or all.",
        ),
        Option(
            "tunnel-address",
            ADDRESSES,
            Need.LIVE,
            "Address inside `local` from which the gateway sends ICMP errors through the tunnel, where it has no address"
            " of its own there; at most one of each family.",
        ),
        Option(
            "aggfrag",
            choice(Aggfrag),
            Need.REKEY,
            "Fragment and aggregate inner packets (AGGFRAG, RFC 9347), so that every size arrives whole: `prefer` where the"
            " peer can, `require` refuses a Child SA without it, `never` is plain tunnel mode.",
        ),
    ),
)
CONNECTION = Table(
    "[connections.NAME]",
    "one peer, or a template for many",
    Connection,
    (
        Inner("local", LOCAL, "This end; see below.", is_required=True),
        Inner("peer", PEER, "The other end; see below.", is_required=True),
        Option(
            "psk",
            FILE,
            Need.REESTABLISH,
            "File with the pre-shared key of both ends, instead of one at each.",
            default=None,
        ),
        Option(
            "proposals",
            IKE_PROPOSALS,
            Need.REKEY,
            "IKE algorithms in order of preference, such as `aes256gcm16-prfsha256-x25519`. Default: AES-GCM and"
            " ChaCha20-Poly1305 with X25519 or ECP-256, then AES-CBC with SHA2-256, which also takes MODP-2048.",
            default=DEFAULT_IKE_PROPOSALS,
        ),
        Inner("lifetimes", IKE_LIFETIMES, "See below."),
        Option("retry", FLAG, Need.LIVE, "Try again without end, at growing intervals, where `start` is `auto`."),
        Option("fragmentation", FLAG, Need.REAUTHENTICATE, "Fragment large IKE messages (RFC 7383)."),
        Option("force-encapsulation", FLAG, Need.REAUTHENTICATE, "Carry ESP in UDP even where there is no NAT."),
        Option(
            "outer-icmp",
            choice(OuterIcmp),
            Need.LIVE,
            "What is done when ICMP says that an ESP packet was too large for the path to the peer: `hint` checks it by"
            " probes, `trust` uses the size that it names, `ignore` does nothing.",
        ),
        Option(
            "group",
            TEXT,
            Need.REAUTHENTICATE,  # its SAs belong to the policy of the group
            "Connections with the same `group` are alternatives: they may protect the same networks, and one of them"
            " carries the traffic.",
        ),
        Option(
            "order", NUMBER, Need.LIVE, "Which connection of a `group` is tried first: the lowest; equal ones by name."
        ),
        Many("children", CHILD, "What is protected; one table for each Child SA.", is_required=True),
    ),
)
FILE_ITSELF = Table(
    "",
    "the file itself",
    dict,
    (
        Option(
            "include",
            text("a directory", str),
            Need.LIVE,
            "Directory whose `*.toml` files are read too, each with `[connections.NAME]` tables; relative to this file. With"
            " thousands of connections, give each its own file.",
            default=None,
        ),
        Inner("daemon", DAEMON, "Settings of `moatd`; see below."),
        Inner("engine", ENGINE, "Settings of the packet engine; see below."),
        Many("connections", CONNECTION, "The connections, by name; see below."),
    ),
)
TABLES = (FILE_ITSELF, DAEMON, ENGINE, CONNECTION, LOCAL, PEER, IKE_LIFETIMES, CHILD, CHILD_LIFETIMES)
"""In the order in which a reader meets them."""
