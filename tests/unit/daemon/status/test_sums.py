"""Every counter that can be added is added, whatever counters there are."""

import msgspec

from openmoat.daemon.status.sums import Sums
from openmoat.dataplane.backend import SaCounters

OF_ONE_SA = {"handle", "inbound_sequence", "outbound_sequence"}
MAPPINGS = {"drops", "deeds"}


def row(handle: int, each: int) -> SaCounters:
    """An SA whose every counter stands at the same number."""
    names = [field.name for field in msgspec.structs.fields(SaCounters) if field.name not in MAPPINGS | {"handle"}]
    return SaCounters(handle=handle, drops={"replayed": each}, deeds={"clamp": each}, **dict.fromkeys(names, each))


def test_no_counter_is_left_out_and_none_that_belongs_to_one_sa_is_added() -> None:
    sums, others = Sums(), Sums()
    sums.add(row(1, 2))
    others.add(row(2, 3))
    others.add(row(3, 5))
    sums.merge(others)
    total = msgspec.structs.asdict(sums.total())
    assert {name: number for name, number in total.items() if name in OF_ONE_SA} == dict.fromkeys(OF_ONE_SA, 0)
    assert {number for name, number in total.items() if name not in OF_ONE_SA | MAPPINGS} == {10}
    assert (total["drops"], total["deeds"]) == ({"replayed": 10}, {"clamp": 10})


def test_what_is_told_is_a_copy() -> None:
    sums = Sums()
    sums.add(row(1, 2))
    before = sums.total()
    sums.add(row(1, 2))
    assert before.drops == {"replayed": 2}
