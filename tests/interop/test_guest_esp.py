"""The ESP of a Linux kernel as peer of the engine, by fixed keys: every suite, in UDP and raw, IPv4 and IPv6, both ways."""

from collections.abc import Iterator

import pytest

from interop.engines import Tunnel
from interop.guests import Pair, kernel_pair, payloads_of
from openmoat.crypto.suites import EspSuite
from openmoat.dataplane.backend import Encapsulation
from openmoat.dataplane.userspace import UserspaceBackend

SIZES = (*range(52, 69), 576, 1279, 1280, 1399)
pytestmark = [pytest.mark.namespaces, pytest.mark.guest]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with kernel_pair(tmp_path_factory.mktemp("guest")) as made:
        yield made


def suites() -> list[EspSuite]:
    return sorted(UserspaceBackend.__new__(UserspaceBackend).capabilities().suites, key=lambda suite: suite.name)


@pytest.mark.parametrize("outside", [4, 6])
@pytest.mark.parametrize("encapsulation", Encapsulation, ids=lambda kind: kind.value)
@pytest.mark.parametrize("suite", suites(), ids=lambda suite: suite.name)
def test_a_kernel_and_the_engine_open_what_the_other_seals(
    pair: Pair, suite: EspSuite, encapsulation: Encapsulation, outside: int
) -> None:
    handle = pair.connect(Tunnel(suite=suite, encapsulation=encapsulation, outside=outside))
    before = pair.kernel_errors()
    for inside in (4, 6):
        sent = payloads_of(SIZES, inside, seed=inside)
        assert pair.to_kernel(sent, inside) == sent
        assert pair.from_kernel(sent, inside) == sent
    assert pair.disconnect(handle) == {}
    assert pair.kernel_errors() == before
