"""The backend over an engine without descriptors: it carries nothing, but keeps and answers what it is told."""

import ipaddress
import math
import socket
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from openmoat import _native
from openmoat.crypto.suites import AES_128_GCM_16, ENCRYPTIONS, INTEGRITIES, Aead, EspSuite
from openmoat.dataplane.backend import Activate, AddInbound, AddOutbound, Encapsulation, Remove, SetPolicies, Update
from openmoat.dataplane.engine_wire import EngineWire
from openmoat.dataplane.userspace import MAX_REPLAY_WINDOW, UserspaceBackend, open_engine
from openmoat.dataplane.wire import Datagram
from openmoat.errors import DataplaneError, DeviceError, Secret, UnknownSpi
from openmoat.mtu.plan import Framing, MtuPlan
from openmoat.net import HostPort, Path
from openmoat.policy.selectors import TrafficSelector
from openmoat.policy.spd import Action, Policy

SUITE = EspSuite(AES_128_GCM_16, None)
PATH = Path(HostPort(ipaddress.ip_address("192.0.2.1"), 4500), HostPort(ipaddress.ip_address("192.0.2.2"), 4500))
NET = (TrafficSelector.of(ipaddress.ip_network("10.0.0.0/8")),)


@pytest.fixture
def engine() -> Iterator[_native.Engine]:
    engine = open_engine(tun=[], udp=[], raw=[], slots=64)
    yield engine
    engine.stop()


@pytest.fixture
def backend(engine: _native.Engine) -> UserspaceBackend:
    return UserspaceBackend(engine)


def inbound(spi: int, suite: EspSuite = SUITE, window: int = 1024) -> AddInbound:
    return AddInbound(
        spi=spi,
        suite=suite,
        key=Secret(bytes(suite.encryption.key_material)),
        integrity_key=Secret(bytes(suite.integrity.key if suite.integrity else 0)),
        encapsulation=Encapsulation.UDP,
        path=PATH,
        local=NET,
        remote=NET,
        replay_window=window,
    )


def outbound(handle: int, plan: MtuPlan) -> AddOutbound:
    return AddOutbound(
        handle=handle,
        spi=0x1000,
        suite=SUITE,
        key=Secret(bytes(20)),
        integrity_key=Secret(b""),
        encapsulation=Encapsulation.UDP,
        path=PATH,
        local=NET,
        remote=NET,
        policy=1,
        plan=plan,
    )


def test_every_suite_of_the_table_can_be_installed_and_nothing_else_is_told(backend: UserspaceBackend) -> None:
    told = backend.capabilities().suites
    aeads = {EspSuite(row, None, esn) for row in ENCRYPTIONS if isinstance(row, Aead) for esn in (False, True)}
    ciphers = {
        EspSuite(row, integrity, esn)
        for row in ENCRYPTIONS
        if not isinstance(row, Aead)
        for integrity in INTEGRITIES
        for esn in (False, True)
    }
    assert told == aeads | ciphers
    for suite in told:
        [spi] = backend.reserve_spis(1)
        backend.apply([inbound(spi, suite)])


def test_spis_are_reserved_until_the_table_is_full_and_come_back(backend: UserspaceBackend) -> None:
    spis = backend.reserve_spis(100)
    assert len(spis) == len(set(spis)) == 64
    assert min(spis) >= 256
    backend.release_spis(spis[:3])
    assert len(backend.reserve_spis(100)) == 3


def test_a_removed_pair_answers_with_its_final_counters(backend: UserspaceBackend) -> None:
    [spi] = backend.reserve_spis(1)
    assert backend.apply([inbound(spi)]) == []
    [counters] = backend.apply([Remove(spi)])
    assert (counters.handle, counters.inbound_packets, counters.drops) == (spi, 0, {})
    assert backend.read_counters() == []
    with pytest.raises(UnknownSpi):
        backend.apply([Remove(spi)])


def test_commands_before_the_failing_one_stand(backend: UserspaceBackend) -> None:
    [spi] = backend.reserve_spis(1)
    with pytest.raises(UnknownSpi):
        backend.apply([inbound(spi), Activate(0x1234)])
    assert [counters.handle for counters in backend.read_counters([spi, 0x1234])] == [spi]


def test_a_path_that_no_socket_carries_is_refused(backend: UserspaceBackend) -> None:
    [spi] = backend.reserve_spis(1)
    with pytest.raises(DeviceError, match=r"no socket for ESP from 192\.0\.2\.1:4500"):
        backend.apply([inbound(spi), outbound(spi, MtuPlan(outer_size=1500, inner_room=1400))])


def test_the_end_of_a_hard_lifetime_can_be_set_and_put_off() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        port = udp.getsockname()[1]
        here = HostPort(ipaddress.ip_address("127.0.0.1"), port)
        backend = UserspaceBackend(open_engine(tun=[], udp=[(udp.fileno(), port)], raw=[], slots=64))
    [spi] = backend.reserve_spis(1)
    half = replace(outbound(spi, MtuPlan(outer_size=1500, inner_room=1400)), path=Path(here, here), hard_at=1.5)
    backend.apply([inbound(spi), half])
    for hard_at in (0.0, 1e9, math.inf, None):
        backend.apply([Update(handle=spi, hard_at=hard_at)])
    assert [counters.handle for counters in backend.read_counters()] == [spi]
    backend.close()


def test_what_the_engine_cannot_keep_is_refused_by_name(backend: UserspaceBackend) -> None:
    [spi] = backend.reserve_spis(1)
    with pytest.raises(DataplaneError, match="replay window"):
        backend.apply([inbound(spi, window=100)])
    with pytest.raises(DataplaneError, match="AGGFRAG needs 64 octets, got 63"):
        backend.apply([outbound(spi, MtuPlan(framing=Framing.AGGFRAG, slices=True, outer_size=1500, inner_room=63))])


def test_both_framings_can_be_installed(backend: UserspaceBackend) -> None:
    assert backend.capabilities().framings == frozenset(Framing)
    spis = backend.reserve_spis(2)
    backend.apply([replace(inbound(spi), framing=framing) for spi, framing in zip(spis, Framing, strict=True)])
    assert {counters.handle for counters in backend.read_counters()} == set(spis)


def test_a_replay_window_is_as_wide_as_is_told_and_not_one_step_wider(backend: UserspaceBackend) -> None:
    first, second = backend.reserve_spis(2)
    assert backend.capabilities().max_replay_window == MAX_REPLAY_WINDOW
    backend.apply([inbound(first, window=MAX_REPLAY_WINDOW)])
    with pytest.raises(DataplaneError, match="replay window"):
        backend.apply([inbound(second, window=MAX_REPLAY_WINDOW + 64)])


def test_policies_are_put_and_removed(backend: UserspaceBackend) -> None:
    policy = Policy(id=1, name="net", rank=1, action=Action.DROP, local=NET, remote=NET)
    assert backend.apply([SetPolicies(put=(policy,)), SetPolicies(remove=(1, 2))]) == []
    assert backend.drain(10) == []
    assert backend.read_drops() == {}


def test_each_offload_is_told_with_the_reason(backend: UserspaceBackend) -> None:
    names = ("tun-tso", "tun-uso", "udp-gso", "udp-gro")
    assert backend.read_offloads() == dict.fromkeys(names, "off: no such descriptor")


def test_a_wire_without_sockets_loses_what_it_sends(engine: _native.Engine) -> None:
    wire = EngineWire(engine)
    assert wire.send_batch([Datagram(bytes(28), PATH)]) == 1
    assert wire.receive_batch(10) == []
    wire.know_spis([1, 2**64 - 1], [1])
    assert wire.fileno() >= 0


def test_descriptors_of_another_kind_are_refused() -> None:
    with open(__file__, "rb") as file:
        with pytest.raises(DeviceError, match="must be a queue of a TUN device"):
            open_engine(tun=[file.fileno()], udp=[], raw=[])
        with pytest.raises(DeviceError, match="must be a UDP socket"):
            open_engine(tun=[], udp=[(file.fileno(), 500)], raw=[])
        with pytest.raises(DeviceError, match="must be a raw socket of protocol 50"):
            open_engine(tun=[], udp=[], raw=[file.fileno()])


def test_a_closed_backend_takes_no_commands(backend: UserspaceBackend) -> None:
    backend.close()
    with pytest.raises(DataplaneError, match="stopped"):
        backend.apply([])
