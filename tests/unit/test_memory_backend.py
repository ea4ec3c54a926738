"""The in-memory backend keeps what it is told, as `dataplane.backend` promises."""

import ipaddress

import pytest

from openmoat.crypto.suites import AES_128_GCM_16, EspSuite
from openmoat.dataplane.backend import (
    Activate,
    AddInbound,
    AddOutbound,
    Backend,
    Encapsulation,
    Remove,
    SaFlag,
    SaState,
    Update,
)
from openmoat.dataplane.memory import MemoryBackend, MemoryWire
from openmoat.dataplane.wire import Datagram, Wire
from openmoat.errors import Secret, UnknownSpi
from openmoat.mtu.plan import MtuPlan
from openmoat.net import HostPort, Path
from openmoat.policy.selectors import TrafficSelector

SUITE = EspSuite(AES_128_GCM_16, None)
HOME = (TrafficSelector.of(ipaddress.ip_network("10.1.0.0/16")),)
OFFICE = (TrafficSelector.of(ipaddress.ip_network("10.2.0.0/16")),)
PATH = Path(HostPort(ipaddress.ip_address("192.0.2.1"), 4500), HostPort(ipaddress.ip_address("192.0.2.2"), 4500))


def pair(spi: int) -> tuple[AddInbound, AddOutbound]:
    key = Secret(bytes(20))
    return (
        AddInbound(
            spi=spi, suite=SUITE, key=key, integrity_key=Secret(), encapsulation=Encapsulation.UDP, path=PATH,
            local=HOME, remote=OFFICE,
        ),
        AddOutbound(
            handle=spi, spi=0x1234, suite=SUITE, key=key, integrity_key=Secret(), encapsulation=Encapsulation.UDP,
            path=PATH, local=HOME, remote=OFFICE, policy=1, plan=MtuPlan(outer_size=1500, inner_room=1438),
        ),
    )  # fmt: skip


def test_a_pair_lives_from_add_to_remove_and_leaves_its_counters() -> None:
    backend: Backend = MemoryBackend()
    (spi,) = backend.reserve_spis(1)
    assert backend.apply([*pair(spi), Activate(spi)]) == []
    (final,) = backend.apply([Remove(spi)])
    assert final.handle == spi
    with pytest.raises(UnknownSpi):
        backend.apply([Remove(spi)])


def test_an_update_changes_only_what_it_names() -> None:
    backend = MemoryBackend()
    (spi,) = backend.reserve_spis(1)
    backend.apply([*pair(spi), Update(handle=spi, hard_at=7.5), Update(handle=spi, keepalive_seconds=20.0)])
    outbound = backend.pairs[spi].outbound
    assert outbound is not None
    assert (outbound.hard_at, outbound.keepalive_seconds, outbound.path) == (7.5, 20.0, PATH)


def test_flags_survive_until_drained() -> None:
    backend = MemoryBackend()
    (spi,) = backend.reserve_spis(1)
    backend.apply(pair(spi))
    backend.raise_flags(spi, SaFlag.FIRST_PACKET)
    backend.raise_flags(spi, SaFlag.SOFT_LIMIT)
    assert backend.drain(16) == [SaState(spi, SaFlag.FIRST_PACKET | SaFlag.SOFT_LIMIT, None)]
    assert backend.drain(16) == []


def test_keys_do_not_show_in_the_repr_of_a_command() -> None:
    inbound, _ = pair(0xC0000000)
    assert "00" * 4 not in repr(inbound)
    assert "<20 secret octets>" in repr(inbound)


def test_the_memory_wire_gives_what_was_delivered() -> None:
    wire = MemoryWire()
    seam: Wire = wire
    wire.deliver(Datagram(b"one", PATH))
    assert seam.receive_batch(64) == [Datagram(b"one", PATH)]
    assert seam.send_batch([Datagram(b"two", PATH)]) == 0
    assert wire.sent[0].octets == b"two"
