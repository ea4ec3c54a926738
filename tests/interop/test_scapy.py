"""scapy opens what scapy seals, for every suite, so that it may judge ours; and it notices a changed octet."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openmoat_lab.peers.esp_oracle import ScapyEsp
from openmoat_lab.processes import LabError

ENVIRONMENT = Path(__file__).parents[2] / ".cache" / "scapy"
INNER = bytes.fromhex("45000028000100004001f9c00a0100010a0200010800f7fe00010000") + b"twelve octet"
SUITES: dict[str, dict[str, Any]] = {
    "aes128gcm16": {"encryption": "AES-GCM", "key": bytes(range(20))},
    "aes256gcm16": {"encryption": "AES-GCM", "key": bytes(range(36))},
    "chacha20poly1305": {"encryption": "CHACHA20-POLY1305", "key": bytes(range(36))},
    "aes128-sha256": {
        "encryption": "AES-CBC",
        "key": bytes(range(16)),
        "integrity": "SHA2-256-128",
        "integrity_key": bytes(range(32)),
    },
    "aes256-sha512": {
        "encryption": "AES-CBC",
        "key": bytes(range(32)),
        "integrity": "SHA2-512-256",
        "integrity_key": bytes(range(64)),
    },
    "null-aes128gmac": {"encryption": "AES-NULL-GMAC", "key": bytes(range(20))},
}
OUTSIDE = {
    4: {"source": "192.0.2.1", "destination": "192.0.2.2"},
    6: {"source": "2001:db8::1", "destination": "2001:db8::2"},
}


@pytest.fixture(scope="module")
def scapy() -> Iterator[ScapyEsp]:
    with ScapyEsp(ENVIRONMENT) as process:
        yield process


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize("suite", SUITES)
def test_scapy_opens_what_it_seals(scapy: ScapyEsp, suite: str, esn: bool, version: int) -> None:
    association = {
        **SUITES[suite],
        **OUTSIDE[version],
        "spi": 0xC0FFEE01,
        "esn": esn,
        "sequence": (5 << 32) + 7 if esn else 7,
    }
    sealed = scapy.seal(INNER, **association)
    assert scapy.open(sealed, **association)[12:20] == INNER[12:20]
    changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    with pytest.raises(LabError, match="IPSecIntegrityError"):
        scapy.open(changed, **association)
