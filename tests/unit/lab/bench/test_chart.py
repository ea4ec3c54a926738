"""The chart is sound XML, narrow, and its bars are as long as the figures say."""

from xml.etree import ElementTree as ET

from openmoat_lab.bench.budgets import RATES
from openmoat_lab.bench.chart import BAR_WIDTH, FIGURE_WIDTH, NAME_WIDTH, WIDTH, chart
from openmoat_lab.bench.measures import FORWARDED, IDLE, P50
from openmoat_lab.bench.results import Result
from openmoat_lab.bench.run import LINKS
from openmoat_lab.bench.subjects import SUBJECTS

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
        "TCP <1>", "Mbit/s, more is better", "openmoat", "3\u2009000", "wireguard & co", "1\u2009000",
        "ping", "ms, less is better", "openmoat", "0.071",
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


def test_no_text_runs_over_a_bar_or_out_of_the_picture_in_a_wide_font() -> None:
    whats = [*(rate.what for rate in RATES), FORWARDED.title, f"{IDLE}, {P50}"]
    works = [f"{what}; {links.title}" for what in whats for links in LINKS]
    rows = [Result(work, one.title, "1", "packets/s", 334_097.0, 0.0) for work in works for one in SUBJECTS.values()]
    picture = ET.fromstring(chart("all", rows, works, "openmoat"))  # noqa: S314
    for text in picture.iter(f"{NAME}text"):
        letters, kind = len(text.text or ""), text.get("class", "name")
        room = {"head": WIDTH - 24, "note": WIDTH - 24, "figure": FIGURE_WIDTH, "name": NAME_WIDTH}[kind]
        # Pixels a letter in DejaVu Sans of 12 pixels, bold and not.
        assert letters * (8.0 if kind == "head" else 7.2) <= room, text.text


def test_nothing_measured_is_an_empty_picture() -> None:
    assert "<svg" in chart("nothing", [], ["TCP <1>"], "openmoat")
