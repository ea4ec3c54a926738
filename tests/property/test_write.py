"""What the writer writes is read as the same again."""

import ipaddress
import string
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from openmoat.config.toml import load
from openmoat.config.write import write_connection, write_settings
from openmoat.crypto.identities import Identity, IdentityPattern, PatternKind
from openmoat.crypto.keys import KeyKind, generate, private_pem, spki_of
from openmoat.crypto.numbers import IdType
from openmoat.crypto.suites import ENCRYPTIONS, INTEGRITIES, KE_METHODS, PRFS, Aead, Status
from openmoat.errors import FieldError
from openmoat.model.connection import (
    MAX_LIMIT,
    Aggfrag,
    Authority,
    Child,
    ChildLifetimes,
    Connection,
    EspProposal,
    IcmpCheck,
    IkeLifetimes,
    IkeProposal,
    OuterIcmp,
    Peer,
    PrivateKey,
    Psk,
    RawKey,
    Start,
)
from openmoat.model.proposals import DEFAULT_ESP_PROPOSALS, DEFAULT_IKE_PROPOSALS
from openmoat.model.settings import LOG_LEVELS, EngineSettings, OnStop, Settings
from openmoat.mtu.words import Df, MssRule, MtuPolicy
from openmoat.policy.selectors import ICMP, ICMPV6, MAX_PORT, TrafficSelector
from unit.crypto.authority import authority, end_entity

ESCAPE = "\\{:02x}"
"""An octet of a value of a distinguished name (RFC 4514 2.4)."""
ROOTS = (authority(), authority())
LEAF = end_entity(ROOTS[0], "home.example")
KEY = generate(KeyKind.ED25519)
LEAF_KEY = "leaf 'key'.pem"
PLAIN_KEY = 'keys/"ours" = [1].pem'
HOME = 'homé ["1"]'
PSKS = ("home.psk", "secrets/schlüssel 鍵.psk", "a\\b#c", "=", "../outside.psk")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A directory with keys of odd names, and one of its own for configurations."""
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory) / 'homé "1"'
        secrets: dict[str, bytes] = dict.fromkeys(PSKS, b"correct horse battery staple")
        secrets |= {LEAF_KEY: private_pem(LEAF.key), PLAIN_KEY: private_pem(KEY)}
        for name, octets in secrets.items():
            file = home / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
            file.write_bytes(octets)
        yield home


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
WORDS = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=12)
HOSTS = (
    st.lists(WORDS, min_size=1, max_size=4).map(".".join).filter(lambda name: not name.rpartition(".")[2].isdecimal())
)
V4 = st.integers(1, 2**32 - 1).map(ipaddress.IPv4Address)
V6 = st.integers(1, 2**128 - 1).map(ipaddress.IPv6Address)
PRINTABLE = st.text(min_size=1, max_size=20).filter(str.isprintable)
MAILBOXES = st.tuples(PRINTABLE.filter(lambda user: not set(user) & set("@ *")), HOSTS).map("@".join)
DISTINGUISHED = st.lists(
    st.tuples(
        st.sampled_from(["CN", "O", "OU", "L", "E"]),
        st.text(string.ascii_letters + 'äß鍵 +,="\\<>;#*', min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=3,
)


@st.composite
def identities(draw: st.DrawFn) -> Identity:
    kind = draw(st.sampled_from(["host", "mailbox", "v4", "v6", "key", "name", "odd"]))
    match kind:
        case "host":
            return Identity.parse(f"fqdn:{draw(HOSTS)}")
        case "mailbox":
            return Identity.parse(f"email:{draw(MAILBOXES)}")
        case "v4" | "v6":
            return Identity.parse(str(draw(V4 if kind == "v4" else V6)))
        case "key":
            return Identity(IdType.KEY_ID, draw(st.binary(min_size=1, max_size=30)))
        case "name":
            escaped = (f"{key}={''.join(map(ESCAPE.format, value.encode()))}" for key, value in draw(DISTINGUISHED))
            return tried(Identity.parse, ",".join(escaped))
        case _:
            return Identity.parse(f"fqdn:{draw(PRINTABLE)}")


T = TypeVar("T")


def tried(make: Callable[..., T], *arguments: Any, **fields: Any) -> T:
    """What can be made; what the model refuses is not tried."""
    try:
        return make(*arguments, **fields)
    except ValueError:
        reject()


@st.composite
def patterns(draw: st.DrawFn) -> IdentityPattern:
    host = draw(HOSTS)
    return draw(
        st.one_of(
            st.just(IdentityPattern(PatternKind.ANY)),
            st.sampled_from([f"*.{host}", f"*@{host}"]).map(IdentityPattern.parse),
            identities()
            .filter(lambda one: "*" not in str(one))
            .map(lambda one: IdentityPattern(PatternKind.EXACT, one)),
        )
    )


def some(rows: Sequence[Any], least: int = 1) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(st.sampled_from(rows), min_size=least, max_size=4, unique_by=lambda row: row.name).map(tuple)


@st.composite
def ike_proposals(draw: st.DrawFn) -> IkeProposal:
    is_aead = draw(st.booleans())
    rows = [row for row in ENCRYPTIONS if isinstance(row, Aead) is is_aead and row.ike is not Status.MUST_NOT]
    return IkeProposal(
        encryptions=draw(some(rows)),
        integrities=() if is_aead else draw(some(INTEGRITIES)),
        prfs=draw(some(PRFS)),
        key_exchanges=draw(some(KE_METHODS)),
    )


@st.composite
def esp_proposals(draw: st.DrawFn) -> EspProposal:
    is_aead = draw(st.booleans())
    rows = [row for row in ENCRYPTIONS if isinstance(row, Aead) is is_aead and row.esp is not Status.MUST_NOT]
    return EspProposal(
        encryptions=draw(some(rows)),
        integrities=() if is_aead else draw(some(INTEGRITIES)),
        key_exchanges=draw(some(KE_METHODS, 0)),
        esn=draw(st.sampled_from([(True, False), (False, True), (True,), (False,)])),
    )


@st.composite
def selectors(draw: st.DrawFn, family: int) -> tuple[TrafficSelector, ...]:
    def one() -> TrafficSelector:
        first, last = sorted(draw(st.tuples(*[V4 if family == 4 else V6] * 2)))
        protocol = draw(st.sampled_from([0, 6, 17, ICMP, ICMPV6, 132, 200]))
        if protocol == 0:
            return TrafficSelector.between(first, last)
        low, high = sorted(draw(st.tuples(*[st.integers(0, MAX_PORT)] * 2)))
        ports = draw(st.sampled_from([(0, MAX_PORT), (MAX_PORT, 0), (low, high), (low, low)]))
        return TrafficSelector.between(first, last, protocol, *ports)

    return tuple(one() for _ in range(draw(st.integers(1, 3))))


def limits(values: st.SearchStrategy[Any], soft: str, hard: str) -> st.SearchStrategy[dict[str, Any]]:
    """A pair of which the second is larger, or 0."""
    pairs = st.tuples(values, values).map(sorted)
    return pairs.map(lambda pair: {soft: pair[0], hard: pair[1] if pair[0] < pair[1] else 0})


SECONDS = st.floats(0, 1e8) | st.integers(0, 10**8).map(float)
COUNTS = st.integers(0, MAX_LIMIT) | st.sampled_from([0, 1000, 1024, 500 * 10**6, 1 << 40])
TIMES = limits(SECONDS, "rekey_after", "hard")
OCTETS, PACKETS = limits(COUNTS, "rekey_octets", "hard_octets"), limits(COUNTS, "rekey_packets", "hard_packets")
JITTERS = st.floats(0, 0.5)
CHILD_LIFETIMES = st.builds(
    lambda jitter, *pairs: ChildLifetimes(jitter=jitter, **{k: v for pair in pairs for k, v in pair.items()}),
    JITTERS,
    TIMES,
    OCTETS,
    PACKETS,
)
IKE_LIFETIMES = st.builds(
    lambda jitter, liveness, pair: IkeLifetimes(jitter=jitter, liveness_after=liveness, **pair), JITTERS, SECONDS, TIMES
)


@st.composite
def children(draw: st.DrawFn, name: str, starts: Sequence[Start]) -> Child:
    family = draw(st.sampled_from([4, 6]))
    local = draw(selectors(family))
    return tried(
        Child,
        name=name,
        local=local,
        remote=draw(selectors(family)),
        proposals=draw(st.just(DEFAULT_ESP_PROPOSALS) | st.lists(esp_proposals(), min_size=1, max_size=2).map(tuple)),
        start=draw(st.sampled_from(starts)),
        lifetimes=draw(st.just(ChildLifetimes()) | CHILD_LIFETIMES),
        priority=draw(st.integers(-1000, 1000)),
        replay_window=draw(st.integers(1, 64)) * 64,
        path_mtu=draw(st.none() | st.integers(576, 65535)),
        mtu_policy=draw(st.sampled_from(MtuPolicy)),
        df=draw(st.none() | st.sampled_from(Df)),
        mss=draw(st.none() | st.sampled_from(MssRule) | st.integers(536, 65495)),
        copy_dscp=draw(st.booleans()),
        icmp_check=draw(st.sampled_from(IcmpCheck)),
        tunnel_address=draw(st.sampled_from([(), (local[0].start,)])),
        aggfrag=draw(st.sampled_from(Aggfrag)),
    )


@st.composite
def connections(draw: st.DrawFn, folder: Path) -> Connection:
    psks = st.sampled_from(PSKS).map(lambda name: Psk(str(folder / name)))
    keys = [PrivateKey(str(folder / PLAIN_KEY)), PrivateKey(str(folder / LEAF_KEY), (LEAF.der, ROOTS[0].der))]
    own = draw(psks | st.sampled_from(keys))
    roots = st.sampled_from([(ROOTS[0].der,), tuple(root.der for root in ROOTS)]).map(Authority)
    addresses = draw(
        st.lists(
            HOSTS | V4.filter(lambda one: not one.is_multicast) | V6.filter(lambda one: not one.is_multicast),
            max_size=3,
        ).map(tuple)
    )
    peer = tried(
        Peer,
        addresses=addresses,
        identity=draw(patterns()),
        credential=draw(psks | st.just(RawKey(spki_of(KEY))) | roots),
    )
    starts = [Start.NONE] if peer.is_pattern or not addresses else list(Start)
    has_chain = isinstance(own, PrivateKey) and bool(own.certificates)
    group = draw(st.none() | NAMES)
    return tried(
        Connection,
        name=draw(NAMES),
        local_identity=Identity.parse("home.example") if has_chain else draw(identities()),
        own=own,
        local_address=draw(st.none() | V4 | V6),
        peer=peer,
        children=tuple(
            draw(children(name, starts)) for name in draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
        ),
        proposals=draw(st.just(DEFAULT_IKE_PROPOSALS) | st.lists(ike_proposals(), min_size=1, max_size=2).map(tuple)),
        lifetimes=draw(st.just(IkeLifetimes()) | IKE_LIFETIMES),
        retry=draw(st.booleans()),
        fragmentation=draw(st.booleans()),
        force_encapsulation=draw(st.booleans()),
        outer_icmp=draw(st.sampled_from(OuterIcmp)),
        group=group,
        order=draw(st.integers(-1000, 1000)) if group else 0,
    )


TEXTS = st.text(max_size=20).filter(str.isprintable)
SETTINGS = st.builds(
    Settings,
    control_socket=TEXTS.map("/{}".format),
    control_group=TEXTS,
    control_read_group=TEXTS,
    device=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}", fullmatch=True),
    on_stop=st.sampled_from(OnStop),
    cookie_threshold=st.integers(0, 1 << 20),
    max_half_open=st.integers(1, 1 << 20),
    fragment_size=st.integers(576, 65535),
    key_log=TEXTS,
    log_level=st.sampled_from(LOG_LEVELS),
    engine=st.builds(
        EngineSettings,
        workers=st.just("auto") | st.integers(1, 64),
        tun_tso=st.booleans(),
        tun_uso=st.booleans(),
        udp_gso=st.booleans(),
        udp_gro=st.booleans(),
    ),
)


@given(st.data())
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_connection_is_read_as_it_was_written(folder: Path, data: st.DataObject) -> None:
    connection = data.draw(connections(folder))
    written = write_connection(connection, folder)
    for name, octets in written.certificates.items():
        (folder / name).write_bytes(octets)
    (folder / "moat.toml").write_text(written.text)
    assert load(folder / "moat.toml").connections == {connection.name: connection}


@given(SETTINGS)
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_settings_are_read_as_they_were_written(folder: Path, wanted: Settings) -> None:
    (folder / "moat.toml").write_text(write_settings(wanted))
    assert load(folder / "moat.toml").settings == wanted


def test_connections_share_the_file_of_their_authority(folder: Path) -> None:
    peer = Peer(identity=IdentityPattern.parse("portal.example"), credential=Authority((ROOTS[0].der,)))
    first, other = (
        Connection(
            name=name,
            local_identity=Identity.parse("home.example"),
            own=PrivateKey(str(folder / PLAIN_KEY)),
            peer=peer,
            children=(small_child(),),
            proposals=DEFAULT_IKE_PROPOSALS,
        )
        for name in ("one", "other")
    )
    assert write_connection(first, folder).certificates == write_connection(other, folder).certificates


def small_child() -> Child:
    everything = (TrafficSelector.parse("0.0.0.0/0"),)
    return Child(name="lan", local=everything, remote=everything, proposals=DEFAULT_ESP_PROPOSALS, start=Start.NONE)


def small(own: Psk, identity: Identity) -> Connection:
    peer = Peer(identity=IdentityPattern.parse("*.homes.example"), credential=Psk("/etc/openmoat/homes.psk"))
    return Connection(
        name="homes",
        local_identity=identity,
        own=own,
        peer=peer,
        children=(small_child(),),
        proposals=DEFAULT_IKE_PROPOSALS,
    )


def test_defaults_are_left_out_and_a_shared_key_is_named_once() -> None:
    connection = small(Psk("/etc/openmoat/homes.psk"), Identity.parse("portal.example"))
    assert write_connection(connection, Path("/etc/openmoat")).text == TEXT


TEXT = """# A template for the peers *.homes.example, to whom we are portal.example.
[connections.homes]
psk = "homes.psk"

[connections.homes.local]
identity = "portal.example"

[connections.homes.peer]
identity = "*.homes.example"

[connections.homes.children.lan]
local = "0.0.0.0/0"
remote = "0.0.0.0/0"
"""


def test_what_a_file_cannot_say_is_refused() -> None:
    nobody = Identity(IdType(200), b"x")
    with pytest.raises(FieldError, match=r"^homes: local: identity: cannot be written as an identity"):
        write_connection(small(Psk("/a.psk"), nobody), Path("/etc"))
    with pytest.raises(FieldError, match=r'^homes: local: psk: "a.psk" cannot be named in a file of /etc'):
        write_connection(small(Psk("a.psk"), Identity.parse("x.example")), Path("/etc"))
