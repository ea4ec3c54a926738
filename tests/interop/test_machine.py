"""What the namespace tests stand on, checked by name so that a machine that lacks it says so."""

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.namespaces


def test_this_machine_makes_network_namespaces() -> None:
    name = f"moat-smoke-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        links = subprocess.run(["ip", "-n", name, "-br", "link"], check=True, capture_output=True, text=True).stdout
        assert links.startswith("lo")
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def test_this_machine_has_tun() -> None:
    assert Path("/dev/net/tun").is_char_device()
