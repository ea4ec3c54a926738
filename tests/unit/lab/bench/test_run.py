"""What is selected is what is measured."""

import pytest

from openmoat_lab.bench.measures import WORKS
from openmoat_lab.bench.run import (
    CONNECTIONS,
    HANDSHAKES,
    IDLE_DAEMON,
    LINKS,
    Options,
    handshakes_of,
    left_out,
    selected_works,
    wants_control,
)
from openmoat_lab.bench.subjects import SUBJECTS


def names(*words: str, is_quick: bool = False) -> list[str]:
    return [work.name for work in selected_works(Options(works=words, is_quick=is_quick))]


def test_without_a_selection_everything_is_done() -> None:
    assert names() == list(WORKS)


def test_a_name_selects_one_and_a_beginning_selects_all_of_its_kind() -> None:
    assert names("tcp-1") == ["tcp-1"]
    assert names("tcp") == [name for name in WORKS if name.startswith("tcp-")]
    assert names("ping", "udp-64") == ["udp-64", "ping"]


def test_a_quick_run_does_the_main_works_unless_it_is_told() -> None:
    assert names(is_quick=True) == ["tcp-1", "udp-64", "udp-1300", "ping"]
    assert names("tcp-8", is_quick=True) == ["tcp-8"]


@pytest.mark.parametrize("word", ["nothing", "tc", ""])
def test_a_word_that_selects_nothing_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="there are: tcp-1"):
        names(word)


def test_the_control_plane_is_measured_with_everything_or_by_its_name() -> None:
    for work, other in ((HANDSHAKES, CONNECTIONS), (CONNECTIONS, IDLE_DAEMON), (IDLE_DAEMON, CONNECTIONS)):
        assert wants_control(Options(), work)
        assert wants_control(Options(works=(work,)), work)
        assert not wants_control(Options(works=(other,)), work)
        assert names(work) == []
        assert not wants_control(Options(works=("tcp",)), work)
        assert not wants_control(Options(subjects=("veth",)), work)
        assert wants_control(Options(works=(work,), is_quick=True), work)


def test_handshakes_bring_the_whole_control_plane_with_them() -> None:
    for work in (CONNECTIONS, IDLE_DAEMON):
        assert wants_control(Options(works=(HANDSHAKES,)), work)


def test_a_quick_run_has_a_short_round_of_handshakes() -> None:
    assert wants_control(Options(is_quick=True), HANDSHAKES)
    quick, whole = handshakes_of(Options(is_quick=True)), handshakes_of(Options(rounds=5))
    assert (quick.rounds, whole.rounds) == (1, 5)
    assert set(quick.handshakes) < set(whole.handshakes)
    assert quick.authentications == whole.authentications


def test_what_a_quick_run_leaves_out_is_missing_by_its_name() -> None:
    rows = {row.subject: row.why for row in left_out(Options(is_quick=True))}
    assert rows[CONNECTIONS] == "left out of a quick run; measured by: moat bench --work connections"
    done = {*names(is_quick=True), HANDSHAKES, LINKS[0].title}
    subjects = {subject.title for subject in SUBJECTS.values() if not subject.is_main}
    assert set(rows) == {*WORKS, CONNECTIONS, IDLE_DAEMON, *subjects, *(links.title for links in LINKS)} - done


@pytest.mark.parametrize("options", [Options(), Options(is_quick=True, works=("tcp",)), Options(subjects=("veth",))])
def test_nothing_is_left_out_of_what_was_asked_for(options: Options) -> None:
    assert list(left_out(options)) == []
