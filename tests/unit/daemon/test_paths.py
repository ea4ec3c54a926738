"""Names and addresses become paths, and the reason is told where none is found."""

import asyncio
import ipaddress
from pathlib import Path

import pytest

from openmoat.daemon.paths import Names


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    file = tmp_path / "hosts"
    file.write_text(
        "# comment\n192.0.2.7  Portal.example portal # the portal\nnonsense portal\n2001:db8::7 portal.example\n"
    )
    return file


def test_the_hosts_file_is_asked_first(hosts: Path) -> None:
    names = Names(lambda: 0.0, hosts)
    found = asyncio.run(names.addresses("portal.EXAMPLE", False))
    assert found == (ipaddress.ip_address("192.0.2.7"), ipaddress.ip_address("2001:db8::7"))


def test_a_broken_line_of_the_hosts_file_is_passed_over(hosts: Path) -> None:
    assert asyncio.run(Names(lambda: 0.0, hosts).addresses("portal", False)) == (ipaddress.ip_address("192.0.2.7"),)
