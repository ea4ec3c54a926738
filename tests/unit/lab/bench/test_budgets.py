"""Budgets compare with the best peer, of what is there, in the direction that is meant."""

import pytest

from openmoat_lab.bench.budgets import budgets
from openmoat_lab.bench.measures import FORWARDED, GATEWAY_STREAM, IDLE, LARGEST, P50, udp_title
from openmoat_lab.bench.results import Missing, Ratio, Result

LINKS = "1500-octet packets"
TCP, FORWARDED_TCP = f"{GATEWAY_STREAM.title}; {LINKS}", f"{FORWARDED.title}; {LINKS}"
UDP, PING = f"{udp_title(64)}; {LINKS}", f"{IDLE}, {P50}; {LINKS}"


def result(work: str, subject: str, median: float, unit: str = "Mbit/s") -> Result:
    return Result(work, subject, "1", unit, median, 0.0)


def test_the_best_peer_has_the_goal_and_the_others_are_told_beside_it() -> None:
    rows = list(
        budgets([result(TCP, "openmoat", 3000), result(TCP, "wireguard-go", 1000), result(TCP, "OpenVPN", 250)], LINKS)
    )
    assert rows == [Ratio(TCP, "wireguard-go, the best peer", 3.0, 2.5), Ratio(TCP, "OpenVPN", 12.0, None)]


def test_a_work_without_a_budget_is_compared_without_a_goal() -> None:
    rows = list(budgets([result(FORWARDED_TCP, "openmoat", 500), result(FORWARDED_TCP, "boringtun", 250)], LINKS))
    assert rows == [Ratio(FORWARDED_TCP, "boringtun, the best peer", 2.0, None)]


def test_round_trips_are_compared_by_what_is_added_to_the_bare_one() -> None:
    found = [result(PING, "openmoat", 0.07, "ms"), result(PING, "wireguard-go", 0.11, "ms")]
    found += [result(PING, "boringtun", 0.21, "ms"), result(PING, "veth alone", 0.01, "ms")]
    [row] = budgets(found, LINKS)
    assert isinstance(row, Ratio)
    assert (row.work, row.against, row.at_least) == (f"added {PING}", "wireguard-go, the best peer", False)
    assert row.value == pytest.approx(0.6)
    assert row.is_met


def test_ours_is_compared_with_itself_unsealed_and_with_more_sas() -> None:
    found = [result(TCP, "openmoat, 1 SA", 2000), result(TCP, "openmoat, unencrypted", 2500)]
    found += [result(TCP, "openmoat, 1 000 SAs", 1990), result(TCP, "openmoat, 10 000 SAs", 1980)]
    assert list(budgets(found, LINKS)) == [
        Ratio(TCP, "openmoat, unencrypted", 0.8, 0.7),
        Ratio(f"openmoat, 1 000 SAs: {TCP}", "openmoat, 1 SA", 0.995, None),
        Ratio(f"openmoat, 10 000 SAs: {TCP}", "openmoat, 1 SA", 0.99, 0.95),
    ]


def test_the_virtual_mtu_is_compared_with_plain_tunnel_mode() -> None:
    large = f"{udp_title(LARGEST)}; {LINKS}"
    plain, virtual = "openmoat, plain tunnel mode", "openmoat, virtual MTU"
    found = [result(FORWARDED_TCP, plain, 1000), result(FORWARDED_TCP, virtual, 950)]
    found += [result(TCP, plain, 1000), result(TCP, f"{virtual}, TCP of 64 KiB packets", 1100)]
    # Plain tunnel mode may carry none at all within the bound on loss: that is no ratio.
    found += [result(large, plain, 0.0, "packets/s"), result(large, virtual, 5000, "packets/s")]
    assert list(budgets(found, LINKS)) == [
        Ratio(f"{virtual}: {FORWARDED_TCP}", plain, 0.95, 0.9),
        Ratio(f"{virtual}, TCP of 64 KiB packets: {TCP}", plain, 1.1, 1.0),
    ]


def test_without_peers_a_budget_is_missing_and_not_guessed() -> None:
    assert list(budgets([result(UDP, "openmoat", 9.0, "packets/s")], LINKS)) == [Missing(UDP, "no peer was measured")]
    found = [result(PING, "openmoat", 0.07, "ms"), result(PING, "boringtun", 0.01, "ms")]
    assert list(budgets(found, LINKS)) == [Missing(PING, "veth alone was not measured")]
    found.append(result(PING, "veth alone", 0.01, "ms"))
    assert list(budgets(found, LINKS)) == [Missing(PING, "boringtun adds nothing that can be measured here")]


def test_a_peer_that_carried_nothing_is_no_peer() -> None:
    found = [result(UDP, "openmoat", 9.0, "packets/s"), result(UDP, "boringtun", 0.0, "packets/s")]
    assert list(budgets(found, LINKS)) == [Missing(UDP, "no peer was measured")]
