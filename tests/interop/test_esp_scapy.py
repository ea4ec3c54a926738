"""scapy opens what our ESP seals, and ours opens what scapy seals: every suite, with and without ESN, v4 and v6."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openmoat_lab.peers.esp_oracle import ScapyEsp
from openmoat_lab.processes import LabError

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".cache" / "scapy"
SPI = 0xC0FFEE01
INNER = {
    4: bytes.fromhex("45000028000100004001f9c00a0100010a0200010800f7fe00010000") + b"twelve octet",
    6: bytes.fromhex("60000000000c3b40" + "20010db8000000000000000000000001" + "20010db8000000000000000000000002")
    + b"twelve octet",
}
OUTSIDE: dict[str, dict[str, Any]] = {
    "v4": {"source": "192.0.2.1", "destination": "192.0.2.2"},
    "v6": {"source": "2001:db8::1", "destination": "2001:db8::2"},
    "v4-udp": {"source": "192.0.2.1", "destination": "192.0.2.2", "udp": True},
    "v6-udp": {"source": "2001:db8::1", "destination": "2001:db8::2", "udp": True},
}
OUTER_OCTETS = {"v4": 20, "v6": 40, "v4-udp": 28, "v6-udp": 48}
AEADS = {"aes{}gcm16": "AES-GCM", "null-aes{}gmac": "AES-NULL-GMAC"}
MACS = {"sha256": ("SHA2-256-128", 32), "sha384": ("SHA2-384-192", 48), "sha512": ("SHA2-512-256", 64)}
SUITES: dict[str, dict[str, Any]] = {
    "chacha20poly1305": {"encryption": "CHACHA20-POLY1305", "key": bytes(range(36))},
    **{
        name.format(bits): {"encryption": encryption, "key": bytes(range(bits // 8 + 4))}
        for name, encryption in AEADS.items()
        for bits in (128, 192, 256)
    },
    **{
        f"aes{bits}-{mac}": {
            "encryption": "AES-CBC",
            "key": bytes(range(bits // 8)),
            "integrity": integrity,
            "integrity_key": bytes(range(100, 100 + size)),
        }
        for bits in (128, 192, 256)
        for mac, (integrity, size) in MACS.items()
    },
}
SEQUENCES = {"short": 7, "esn": (5 << 32) + 7}


class OurEsp:
    """The running example program of the esp crate."""

    def __init__(self) -> None:
        command = ["cargo", "run", "--quiet", "--release", "-p", "openmoat-esp", "--example", "esp_oracle"]
        self.process = subprocess.Popen(
            [*command, "--manifest-path", str(ROOT / "rust" / "Cargo.toml")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, verb: str, suite: str, width: str, sequence: int, packet: bytes) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        row = SUITES[suite]
        keys = [row["key"].hex(), row.get("integrity_key", b"").hex() or "-"]
        words = [verb, suite, width, str(SPI), str(sequence), *keys, packet.hex()]
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@pytest.fixture(scope="module")
def scapy() -> Iterator[ScapyEsp]:
    with ScapyEsp(ENVIRONMENT) as process:
        yield process


@pytest.fixture(scope="module")
def ours() -> Iterator[OurEsp]:
    esp = OurEsp()
    yield esp
    esp.process.communicate(timeout=5)


def association(suite: str, width: str, outside: str) -> dict[str, Any]:
    return {
        **SUITES[suite],
        **OUTSIDE[outside],
        "spi": SPI,
        "esn": width == "esn",
        "sequence": SEQUENCES[width],
    }


def outer_header(scapy: ScapyEsp, outside: str, size: int) -> bytes:
    """A header for `size` octets of ESP: one that scapy made for another packet, with its lengths set."""
    made = scapy.seal(INNER[4], **association("aes128gcm16", "short", outside))
    header = bytearray(made[: OUTER_OCTETS[outside]])
    if outside.endswith("udp"):
        header[-4:-2] = (size + 8).to_bytes(2, "big")
    if outside.startswith("v4"):
        header[2:4] = (len(header) + size).to_bytes(2, "big")
    else:
        header[4:6] = (len(header) - 40 + size).to_bytes(2, "big")
    return bytes(header)


@pytest.mark.parametrize("inside", [4, 6])
@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("width", SEQUENCES)
@pytest.mark.parametrize("suite", SUITES)
def test_scapy_opens_what_we_seal(
    scapy: ScapyEsp, ours: OurEsp, suite: str, width: str, outside: str, inside: int
) -> None:
    verdict, _, sealed = ours.ask("seal", suite, width, SEQUENCES[width], INNER[inside]).partition(" ")
    assert verdict == "ok", sealed
    packet = outer_header(scapy, outside, len(sealed) // 2) + bytes.fromhex(sealed)
    assert scapy.open(packet, **association(suite, width, outside)) == INNER[inside]
    with pytest.raises(LabError, match="IPSecIntegrityError"):
        scapy.open(packet[:-1] + bytes([packet[-1] ^ 1]), **association(suite, width, outside))


@pytest.mark.parametrize("inside", [4, 6])
@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("width", SEQUENCES)
@pytest.mark.parametrize("suite", SUITES)
def test_we_open_what_scapy_seals(
    scapy: ScapyEsp, ours: OurEsp, suite: str, width: str, outside: str, inside: int
) -> None:
    sealed = scapy.seal(INNER[inside], **association(suite, width, outside))[OUTER_OCTETS[outside] :]
    before = SEQUENCES[width] - 1
    assert ours.ask("open", suite, width, before, sealed) == f"ok {INNER[inside].hex()}"
    assert ours.ask("open", suite, width, before, sealed[:-1] + bytes([sealed[-1] ^ 1])) == "drop bad-icv"
    assert ours.ask("open", suite, width, before + 1, sealed) == "drop replayed"
