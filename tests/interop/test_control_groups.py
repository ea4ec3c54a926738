"""Callers of the control socket with many groups (root)."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from openmoat.daemon.control.access import MAX_GROUPS, caller_of

FIRST = 100_000
CALL = """
import os, socket, sys
os.setgroups(range(int(sys.argv[2]), int(sys.argv[2]) + int(sys.argv[3])))
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[1])
    sock.recv(1)
"""


@pytest.mark.parametrize(("groups", "seen"), [(MAX_GROUPS, MAX_GROUPS), (MAX_GROUPS + 1, 0)])
def test_all_groups_of_a_caller_count_up_to_the_bound_and_only_the_first_beyond(
    tmp_path: Path, groups: int, seen: int
) -> None:
    place = str(tmp_path / "control.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen()
        caller = subprocess.Popen([sys.executable, "-c", CALL, place, str(FIRST), str(groups)])
        listener.settimeout(30)
        with listener.accept()[0] as sock:
            found = caller_of(sock)
        assert caller.wait(30) == 0
    assert found.user == 0
    assert len(found.groups & set(range(FIRST, FIRST + groups))) == seen
    assert 0 in found.groups
