"""Results of a benchmark: medians and verdicts are right, the JSON has its schema, the table says all of it."""

import json

import pytest

from openmoat_lab.bench.results import Missing, Ratio, Report, Result, Row, aspect_of

TCP = "TCP, 1 flow; 1500-octet packets"
MEASURED: list[Row] = [
    Result.of(TCP, "openmoat", "0.1.0", "Mbit/s", [2900.0, 3100.0, 3000.0]),
    Result.of(TCP, "wireguard-go", "v0.0.0-20260522210424-ecfc5a8d5446", "Mbit/s", [1010.0, 990.0]),
    Result.of(aspect_of(TCP, "CPU, threads"), "wireguard-go", "v0.0.0-20260522210424-ecfc5a8d5446", "s/GB", [12.8]),
    Ratio(TCP, "wireguard-go", 3.0, 2.5),
    Ratio("load 10 000 connections", "a bound", 7.25, 5.0, at_least=False, unit="s"),
    Ratio(TCP, "veth alone", 0.2, None),
    Missing("boringtun", "no cargo on this machine"),
]


@pytest.fixture
def report() -> Report:
    made = Report({"processor": "two cores", "suite": "aes128gcm16"})
    made.add(MEASURED)
    return made


def test_a_result_is_the_median_of_its_samples_and_their_whole_spread() -> None:
    assert Result.of(TCP, "a", "1", "ms", [5.0, 1.0, 2.0]) == Result(TCP, "a", "1", "ms", 2.0, 4.0)
    assert Result.of(TCP, "a", "1", "ms", [1.0, 2.0]).median == 1.5


def test_a_goal_is_met_from_the_side_it_is_meant() -> None:
    assert Ratio(TCP, "b", 2.5, 2.5).is_met is True
    assert Ratio(TCP, "b", 2.4, 2.5).is_met is False
    assert Ratio(TCP, "b", 1.0, 1.0, at_least=False).is_met is True
    assert Ratio(TCP, "b", 1.1, 1.0, at_least=False).is_met is False
    assert Ratio(TCP, "b", 1.1, None).is_met is None


def test_rows_go_where_they_belong_and_a_lack_is_said_once(report: Report) -> None:
    report.add([Missing("boringtun", "no cargo on this machine")])
    assert (len(report.results), len(report.ratios), len(report.missing)) == (3, 3, 1)


def test_the_json_is_one_line_with_its_schema(report: Report) -> None:
    text = report.to_json()
    assert "\n" not in text
    found = json.loads(text)
    assert list(found) == ["schema", "machine", "results", "ratios", "missing"]
    assert found["schema"] == "moat.bench/1"
    assert found["machine"] == {"processor": "two cores", "suite": "aes128gcm16"}
    assert found["results"][0] == {
        "work": TCP, "subject": "openmoat", "version": "0.1.0", "unit": "Mbit/s", "median": 3000.0, "spread": 200.0,
    }  # fmt: skip
    assert found["ratios"][1] == {
        "work": "load 10 000 connections", "against": "a bound", "value": 7.25, "goal": 5.0, "at_least": False,
        "unit": "s",
    }  # fmt: skip
    assert found["missing"] == [{"subject": "boringtun", "why": "no cargo on this machine"}]


def test_the_table_has_every_subject_goal_and_lack_and_is_narrow(report: Report) -> None:
    lines = report.table().splitlines()
    assert lines.count(TCP) == 1
    assert any(line.split() == ["openmoat", "0.1.0", "3000", "±100", "Mbit/s"] for line in lines)
    assert any(
        line.split() == ["wireguard-go", "v0.0.0-20260522", "1000", "±10.0", "Mbit/s", "12.8", "s/GB"] for line in lines
    )
    assert any(line.split() == ["wireguard-go", "3.00", "×", "≥", "2.5", "×", "met"] for line in lines)
    assert any(line.split() == ["a", "bound", "7.25", "s", "≤", "5", "s", "missed"] for line in lines)
    assert any(line.split() == ["veth", "alone", "0.20", "×"] for line in lines)
    assert "  boringtun: no cargo on this machine" in lines
    assert max(map(len, lines)) < 80
