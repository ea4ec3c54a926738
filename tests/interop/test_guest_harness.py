"""The guest itself: it boots, does as it is told, says what went wrong, writes nowhere else, and leaves nothing behind."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from interop.hosts import Host, hosts
from openmoat_lab.guest.machine import Guest
from openmoat_lab.processes import CommandFailed, LabError

pytestmark = [pytest.mark.namespaces, pytest.mark.guest]


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with hosts("left") as (left,):
        yield left


@pytest.fixture(scope="module")
def guest(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    with Guest(host.name, tmp_path_factory.mktemp("guest")) as made:
        yield made


def test_it_runs_another_kernel_than_ours(guest: Guest) -> None:
    release = guest.run("uname", "-r").stdout.strip()
    assert release.endswith("-moat")
    assert release != os.uname().release


def test_a_command_that_fails_or_does_not_end_is_told_with_its_words(guest: Guest) -> None:
    with pytest.raises(CommandFailed, match="No such file or directory"):
        guest.run("ls", "/nowhere")
    with pytest.raises(CommandFailed, match=r"no end after 0\.2 s"):
        guest.run("sleep", "30", seconds=0.2)
    with pytest.raises(CommandFailed, match="message 0: Invalid argument"):
        guest.netlink([(16 + 224).to_bytes(4, "little") + b"\x10\x00\x05\x04" + bytes(8 + 224)])
    assert guest.run("echo", "it goes on").stdout == "it goes on\n"


def test_it_cannot_write_into_the_files_of_this_machine(guest: Guest) -> None:
    with pytest.raises(CommandFailed, match="Read-only file system"):
        guest.run("touch", "/var/lib/moat-probe")
    assert not Path("/var/lib/moat-probe").exists()


def test_a_process_in_the_background_is_heard_and_stopped(guest: Guest) -> None:
    process = guest.spawn("sh", "-c", "echo begun; exec sleep 60", name="sleeper")
    process.wait_for_output("begun")
    assert process.stop() == -15


def test_its_end_leaves_no_process_and_another_can_be_booted(host: Host, tmp_path: Path) -> None:
    for _ in range(2):
        with Guest(host.name, tmp_path, cables=("out1",)) as second:
            assert f"moat_share={tmp_path}" in running()
            second.run("true")
        assert f"moat_share={tmp_path}" not in running()
    with pytest.raises(LabError, match="does not run"):
        second.run("true")


def running() -> str:
    """The command lines of all processes."""
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(entry.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(lines)
