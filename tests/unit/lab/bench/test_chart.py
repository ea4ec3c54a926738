"""The chart is sound XML, narrow, and its bars are as long as the figures say."""

from xml.etree import ElementTree as ET

from openmoat.lab.bench.chart import BAR_WIDTH, WIDTH, chart
from openmoat.lab.bench.results import Result

NAME = "{http://www.w3.org/2000/svg}"
RESULTS = [
    Result("TCP <1>", "openmoat", "1", "Mbit/s", 3000.0, 0.0),
    Result("TCP <1>", "wireguard & co", "1", "Mbit/s", 1000.0, 0.0),
    Result("ping", "openmoat", "1", "ms", 0.071, 0.0),
    Result("not asked for", "openmoat", "1", "ms", 1.0, 0.0),
]


def drawn() -> ET.Element:
    return ET.fromstring(chart("ours & theirs", RESULTS, ["TCP <1>", "ping", "not measured"], "openmoat"))  # noqa: S314


def test_bars_are_as_long_as_the_figures_and_ours_stands_out() -> None:
    bars = [bar for bar in drawn().iter(f"{NAME}rect") if bar.get("class") != "page"]
    assert [round(float(bar.get("width", "0"))) for bar in bars] == [BAR_WIDTH, round(BAR_WIDTH / 3), BAR_WIDTH]
    assert [bar.get("class") for bar in bars] == ["ours", None, "ours"]


def test_all_that_was_asked_for_and_is_there_is_written() -> None:
    texts = [text.text for text in drawn().iter(f"{NAME}text")]
    assert texts == [
        "TCP <1>, Mbit/s", "openmoat", "3\u2009000", "wireguard & co", "1\u2009000", "ping, ms", "openmoat", "0.071",
    ]  # fmt: skip


def test_it_fits_a_telephone_and_both_schemes() -> None:
    picture = drawn()
    _, _, width, height = map(float, picture.get("viewBox", "").split())
    assert width == WIDTH <= 390
    ends = [float(bar.get("y", "0")) + float(bar.get("height", "0")) for bar in picture.iter(f"{NAME}rect")]
    assert max(ends) <= height
    style = picture.find(f"{NAME}style")
    assert style is not None
    assert "prefers-color-scheme: dark" in (style.text or "")


def test_nothing_measured_is_an_empty_picture() -> None:
    assert "<svg" in chart("nothing", [], ["TCP <1>"], "openmoat")
