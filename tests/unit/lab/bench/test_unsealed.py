import pytest

from openmoat import _native
from openmoat.dataplane.userspace import UserspaceBackend
from openmoat_lab.bench.subjects import SUBJECTS, UNSEALED
from openmoat_lab.bench.unsealed import open_unsealed_engine
from openmoat_lab.processes import LabError


@pytest.mark.skipif(not hasattr(_native, "unsealed_engine"), reason="this build has no suite that encrypts nothing")
def test_an_engine_that_seals_nothing_meets_the_backend_as_any_other() -> None:
    backend = UserspaceBackend(open_unsealed_engine(tun=(), udp=(), raw=()))
    assert len(backend.reserve_spis(2)) == 2
    backend.close()


def test_without_such_a_suite_the_row_is_left_out_and_the_remedy_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(_native, "unsealed_engine", raising=False)
    with pytest.raises(LabError, match=r"encrypts nothing; remedy: maturin develop .*unsealed"):
        SUBJECTS[UNSEALED].version()
