"""What Python decides and what the Rust engine carries out are the same: the policy of a packet, the sizes of ESP."""

import ipaddress
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openmoat.crypto.suites import AEADS, CIPHERS, INTEGRITIES, EspSuite
from openmoat.mtu.overhead import IP_HEADER, Overhead
from openmoat.net import Address
from openmoat.policy.selectors import MAX_PORT, Flow, Selectors, TrafficSelector
from openmoat.policy.spd import Action, Spd, WantedPolicy

MANIFEST = Path(__file__).parents[2] / "rust" / "Cargo.toml"
SUITES = [
    *(EspSuite(aead, None) for aead in AEADS),
    *(EspSuite(cipher, mac) for cipher in CIPHERS for mac in INTEGRITIES),
]
V4 = [0, 1, 0x0A0000FE, 0x0A0000FF, 0x0A000100, 0x0A000101, 0x7FFFFFFF, 0x80000000, 2**32 - 1]
V6 = [0, 1, 0x20010DB8 << 96, (0x20010DB8 << 96) + 5, 2**127 - 1, 2**127, 2**128 - 1]
ADDRESSES: dict[int, st.SearchStrategy[Address]] = {
    4: st.sampled_from(V4).map(ipaddress.IPv4Address),
    6: st.sampled_from(V6).map(ipaddress.IPv6Address),
}
PORTS = [(0, MAX_PORT), (0, MAX_PORT), (MAX_PORT, 0), (0, 2), (2, 2), (3, MAX_PORT)]


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Address, Address]:
    addresses = ADDRESSES[draw(st.sampled_from((4, 4, 6)))]
    return draw(addresses), draw(addresses)


@st.composite
def selectors(draw: st.DrawFn) -> TrafficSelector:
    start, end = sorted(draw(pairs()), key=int)
    ports = draw(st.sampled_from(PORTS))
    return TrafficSelector.between(start, end, draw(st.sampled_from((0, 6, 17))), *ports)


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    source, destination = draw(pairs())
    ports = draw(st.one_of(st.just((None, None)), st.tuples(st.integers(0, 4), st.integers(0, 4))))
    return Flow(source, destination, draw(st.sampled_from((6, 17, 47))), *ports)


NAMES = [f"p{n}" for n in range(9)]
LISTS = st.lists(selectors(), min_size=1, max_size=2).map(tuple)
WANTED = st.builds(
    WantedPolicy,
    name=st.sampled_from(NAMES),
    action=st.sampled_from((Action.PASS, Action.DROP, Action.REJECT)),
    local=LISTS,
    remote=LISTS,
    priority=st.integers(0, 2),
)


class Tables:
    """The running example program of the esp crate."""

    def __init__(self) -> None:
        command = ["cargo", "run", "--quiet", "--release", "-p", "openmoat-esp", "--example", "tables_oracle"]
        self.process = subprocess.Popen(
            [*command, "--manifest-path", str(MANIFEST)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, *words: object) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert answer.startswith("ok"), answer
        return answer[3:]


@pytest.fixture(scope="module")
def tables() -> Iterator[Tables]:
    program = Tables()
    program.ask("sizes", "aes128gcm16", 1)  # the build is over
    yield program
    program.process.communicate(timeout=5)


def text(selectors: Selectors) -> str:
    return ",".join(f"{s.start}-{s.end}-{s.protocol}-{s.start_port}-{s.end_port}" for s in selectors)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.lists(WANTED, max_size=4), st.sets(st.sampled_from(NAMES), max_size=3)), max_size=4),
    asked=st.lists(flows(), max_size=12),
)
def test_both_find_the_same_policy_after_any_changes(
    tables: Tables, changes: list[tuple[list[WantedPolicy], set[str]]], asked: list[Flow]
) -> None:
    spd = Spd()
    tables.ask("clear")
    for put, remove in changes:
        change = spd.change(put, remove)
        for number in change.remove:
            tables.ask("remove", number)
        for policy in change.put:
            tables.ask("policy", policy.id, policy.rank, text(policy.local), text(policy.remote))
    for flow in asked:
        ports = ("-" if port is None else port for port in (flow.source_port, flow.destination_port))
        found = tables.ask("find", flow.source, flow.destination, flow.protocol, *ports)
        expected = spd.lookup(flow)
        assert found == (str(expected.id) if expected else "none")


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_both_compute_the_same_sizes(tables: Tables, suite: EspSuite) -> None:
    overhead = Overhead(suite, outer_version=4, udp=False)
    for octets in (*range(60, 120), 576, *range(1270, 1290), *range(1480, 1501), 9000, 65_000):
        sealed, room = tables.ask("sizes", suite.name, octets).split()
        assert int(sealed) == overhead.outer_size(octets) - IP_HEADER[4]
        assert int(room) == max(0, overhead.inner_room(octets + IP_HEADER[4]))
