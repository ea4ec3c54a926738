"""What is protected and reserved, prefix by prefix, and what of it is news to the host."""

import ipaddress
from collections.abc import Callable

from openmoat.daemon.host.prefixes import MAX_TOUCHED, Prefixes, Protected
from openmoat.mtu.plan import MtuPlan
from openmoat.policy.selectors import parse_selectors

PLAN, SMALL = (MtuPlan(outer_size=1500, inner_room=room) for room in (1400, 1200))
NEAR = parse_selectors(["10.2.0.0/16"])
FAR = ipaddress.ip_network("10.1.0.0/24")


def protected(remote: str = "10.1.0.0/24", plan: MtuPlan = PLAN) -> Protected:
    return Protected(NEAR, parse_selectors([remote]), plan)


def test_a_prefix_is_news_when_it_comes_changes_its_sizes_and_goes_and_only_then() -> None:
    prefixes = Prefixes()
    steps: list[tuple[Callable[[], None], bool]] = [
        (lambda: prefixes.protect("one", protected()), True),
        (lambda: prefixes.protect("one", protected()), False),
        (lambda: prefixes.protect("one", protected(plan=SMALL)), True),
        (lambda: prefixes.unprotect("one"), True),
        (lambda: prefixes.unprotect("one"), False),
    ]
    for change, is_news in steps:
        before = prefixes.revision
        prefixes.changed.clear()
        change()
        touched = prefixes.take_touched()
        assert touched is not None
        assert (list(touched.prefixes) == [FAR]) is is_news
        assert (prefixes.revision > before) is prefixes.changed.is_set() is is_news
    assert prefixes.protected() == ()


def test_a_prefix_that_two_share_stays_until_both_are_gone() -> None:
    prefixes = Prefixes()
    prefixes.protect("one", protected())
    prefixes.protect("two", protected(plan=SMALL))
    assert [one.plan for one in prefixes.sharing(FAR)] == [PLAN, SMALL]
    assert prefixes.local == {ipaddress.ip_network("10.2.0.0/16"): 2}
    prefixes.unprotect("one")
    assert [one.plan for one in prefixes.sharing(FAR)] == [SMALL]
    prefixes.unprotect("two")
    assert (prefixes.sharing(FAR), prefixes.local, prefixes.find("two")) == ([], {}, None)


def test_a_reserve_is_replaced_by_name_and_any_address_reserves_nothing() -> None:
    prefixes = Prefixes()
    anywhere = parse_selectors(["0.0.0.0/0"])
    prefixes.reserve("homes", [(NEAR, parse_selectors(["10.1.0.0/24"])), (NEAR, anywhere)])
    assert prefixes.is_reserved(FAR)
    assert not prefixes.is_reserved(ipaddress.ip_network("0.0.0.0/0"))
    prefixes.reserve("homes", [])
    assert not prefixes.is_reserved(FAR)
    assert prefixes.reserved() == ()


def test_too_much_news_is_one_piece_of_news() -> None:
    prefixes = Prefixes()
    for number in range(MAX_TOUCHED + 1):
        prefixes.protect(str(number), protected(f"10.{number // 256}.{number % 256}.0/24"))
    assert prefixes.take_touched() is None
    prefixes.unprotect("0")
    touched = prefixes.take_touched()
    assert touched is not None
    assert len(touched.prefixes) == 1
