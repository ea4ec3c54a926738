"""Reading with the rights of another user, which only root can take and lay down."""

import os
from pathlib import Path

import pytest

from openmoat.cli.reader import reading_as
from openmoat.config.toml import load
from openmoat.errors import ConfigError

NOBODY = 65534


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_in_its_own_directory_root_reads_as_the_user_and_is_root_again(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    before = (os.geteuid(), os.getegid(), os.getgroups())
    with reading_as("nobody", tmp_path):
        assert (os.geteuid(), os.getegid()) == (NOBODY, NOBODY)
        assert 0 not in os.getgroups()
    assert (os.geteuid(), os.getegid(), os.getgroups()) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_what_the_user_may_not_read_is_told_with_a_name_and_a_remedy(tmp_path: Path) -> None:
    file = tmp_path / "moat.toml"
    file.touch(mode=0o600)
    os.chown(tmp_path, NOBODY, NOBODY)
    for directory in (tmp_path.parent, tmp_path.parent.parent):
        directory.chmod(0o755)
    with reading_as("nobody", tmp_path), pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value) == f"{file}: cannot be read by user nobody: Permission denied; chown nobody {file}"


@pytest.mark.parametrize("user", ["nobody", "no-such-user"])
def test_in_the_directory_of_another_nothing_changes(tmp_path: Path, user: str) -> None:
    before = os.geteuid()
    with reading_as(user, tmp_path):
        assert os.geteuid() == before
