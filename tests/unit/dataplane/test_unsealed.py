from openmoat.dataplane.unsealed import open_unsealed_engine
from openmoat.dataplane.userspace import UserspaceBackend


def test_an_engine_that_seals_nothing_meets_the_backend_as_any_other() -> None:
    backend = UserspaceBackend(open_unsealed_engine(tun=(), udp=(), raw=()))
    assert len(backend.reserve_spis(2)) == 2
    backend.close()
