"""What of the guest needs no guest: its messages to the kernel's XFRM, and what is said where there is none."""

import struct
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from openmoat.crypto.suites import AES_128_GCM_16, EspSuite
from openmoat.errors import Secret
from openmoat_lab.guest.build import REMEDY, why_no_kernel
from openmoat_lab.guest.machine import Guest
from openmoat_lab.guest.xfrm import Direction, Iptfs, KernelPolicy, KernelSa
from openmoat_lab.processes import LabError

SA = KernelSa(
    spi=0xC0FFEE01,
    suite=EspSuite(AES_128_GCM_16, None),
    key=Secret(bytes(20)),
    integrity_key=Secret(b""),
    source=ip_address("192.0.2.1"),
    destination=ip_address("192.0.2.2"),
    is_inbound=False,
    iptfs=Iptfs(packet_size=1280, dont_frag=True, drop_time=5),
)


def attributes(octets: bytes) -> dict[int, bytes]:
    found = {}
    while octets:
        size, kind = struct.unpack_from("=HH", octets)
        found[kind] = octets[4:size]
        octets = octets[size + -size % 4 :]
    return found


def test_an_sa_has_the_settings_of_its_direction_alone() -> None:
    message = SA.request()
    assert struct.unpack_from("=IH", message) == (len(message), 0x10)
    words = attributes(message[16 + 224 :])
    assert words[41] == struct.pack("=I", 1280)
    assert words[38] == b""
    assert 36 not in words


def test_a_policy_names_both_ends_and_the_mode() -> None:
    message = KernelPolicy(
        source=ip_network("10.1.0.0/16"),
        destination=ip_network("10.2.0.0/16"),
        direction=Direction.OUT,
        tunnel_source=SA.source,
        tunnel_destination=SA.destination,
        is_iptfs=True,
    ).request()
    [template] = attributes(message[16 + 168 :]).values()
    assert len(template) == 64
    assert template[:4] == SA.destination.packed
    assert template[28:32] == SA.source.packed
    assert template[48] == 5


def test_a_guest_without_a_kernel_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert REMEDY in why_no_kernel()
    with pytest.raises(LabError, match="make guest-kernel"):
        Guest("nowhere", tmp_path).boot()
