"""Verdicts on servers, from what was observed of them."""

from openmoat.mtu.survey import EFFICIENT_SECONDS, ENOUGH_OCTETS, Kind, Observation, classify

LIMIT = 1280
LARGE = Observation(limit=LIMIT, largest=1500, dropped=17)


def kind(silent: Observation, told: Observation | None = None) -> Kind:
    return classify(silent, told).kind


def test_who_sends_less_by_itself_is_efficient_or_semi_naughty_by_the_time_it_takes() -> None:
    for seconds, expected in ((EFFICIENT_SECONDS, Kind.EFFICIENT), (EFFICIENT_SECONDS + 0.1, Kind.SEMI_NAUGHTY)):
        assert kind(Observation(limit=LIMIT, largest=1500, dropped=9, recovered=seconds)) is expected


def test_naughty_and_incorrigible_differ_in_what_icmp_does() -> None:
    assert kind(LARGE, Observation(limit=LIMIT, largest=1500, dropped=10, recovered=0.1)) is Kind.NAUGHTY
    assert kind(LARGE, LARGE) is Kind.INCORRIGIBLE
    assert kind(LARGE, Observation(limit=LIMIT, is_connected=False)) is Kind.INCORRIGIBLE


def test_small_segments_and_large_ones_without_df_are_inefficient() -> None:
    assert kind(Observation(limit=LIMIT, octets=ENOUGH_OCTETS, largest=576)) is Kind.INEFFICIENT
    found = classify(Observation(limit=LIMIT, octets=ENOUGH_OCTETS, largest=1500, fragmentable=12), None)
    assert found.kind is Kind.INEFFICIENT
    assert found.evidence == ("packets of 1500 octets without DF",)


def test_a_short_answer_tells_nothing_and_no_answer_says_so() -> None:
    assert kind(Observation(limit=LIMIT, octets=ENOUGH_OCTETS - 1, largest=1200)) is Kind.UNKNOWN
    assert kind(Observation(limit=LIMIT, is_connected=False)) is Kind.UNREACHABLE


def test_the_evidence_names_what_was_seen() -> None:
    told = Observation(limit=LIMIT, largest=1500, dropped=10, recovered=0.14)
    assert classify(LARGE, told).evidence == (
        "packets of 1500 octets with DF; those above 1280 were dropped, 17 of them in 40 s",
        "smaller ones 0.1 s after ICMP had said so",
    )
