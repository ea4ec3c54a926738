import os
import stat
from ipaddress import ip_address
from pathlib import Path

import pytest

from openmoat.crypto.identities import Identity
from openmoat.crypto.suites import (
    AES_128_CBC,
    AES_128_GCM_16,
    AES_256_GCM_16,
    CHACHA20_POLY1305,
    HMAC_SHA2_256_128,
    PRF_HMAC_SHA2_256,
    X25519,
    EspSuite,
    IkeSuite,
)
from openmoat.daemon.core.keylog import KeyLog, esp_lines, table_line
from openmoat.errors import Secret, SystemFault
from openmoat.ike.events import ChildKeys, ChildSa, IkeSaKeys
from openmoat.net import HostPort
from openmoat.net import Path as OuterPath


def keys(suite: IkeSuite) -> IkeSaKeys:
    integrity = suite.integrity.key if suite.integrity else 0
    sizes = (suite.encryption.key_material,) * 2 + (integrity,) * 2
    return IkeSaKeys(0x1122334455667788, 0x99, suite, *(Secret(bytes((n,)) * size) for n, size in enumerate(sizes, 1)))


GCM = IkeSuite(AES_256_GCM_16, None, PRF_HMAC_SHA2_256, X25519)
CBC = IkeSuite(AES_128_CBC, HMAC_SHA2_256_128, PRF_HMAC_SHA2_256, X25519)
CHACHA = IkeSuite(CHACHA20_POLY1305, None, PRF_HMAC_SHA2_256, X25519)


def test_an_aead_suite_is_written_with_its_salt_and_without_integrity() -> None:
    assert table_line(keys(GCM)) == (
        f"1122334455667788,0000000000000099,{'01' * 36},{'02' * 36},"
        '"AES-GCM-256 with 16 octet ICV [RFC5282]",,,"NONE [RFC4306]"'
    )


def test_a_cipher_suite_is_written_with_both_kinds_of_keys() -> None:
    assert table_line(keys(CBC)).endswith(f'{"03" * 32},{"04" * 32},"HMAC_SHA2_256_128 [RFC4868]"')


def test_a_suite_that_wireshark_cannot_decrypt_is_left_out(tmp_path: Path) -> None:
    log = KeyLog(tmp_path / "keys")
    log.write(keys(CHACHA))
    log.close()
    assert (tmp_path / "keys").read_text() == ""


def test_the_file_is_appended_to_and_private(tmp_path: Path) -> None:
    for _ in range(2):
        log = KeyLog(tmp_path / "keys")
        log.write(keys(GCM))
        log.close()
    assert (tmp_path / "keys").read_text().count("\n") == 2
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o600


def test_a_link_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SystemFault, match="key log"):
        KeyLog(tmp_path / "keys")


def test_a_file_that_others_can_read_or_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").touch(mode=0o644)
    (tmp_path / "keys.esp").touch(mode=0o640)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("open", "keys", "pipe"):
        with pytest.raises(SystemFault, match="key log"):
            KeyLog(tmp_path / name)


def test_a_full_disk_costs_lines_and_raises_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = KeyLog(tmp_path / "keys")
    full = os.open("/dev/full", os.O_WRONLY)
    for link in list(Path("/proc/self/fd").iterdir()):
        if link.is_symlink() and os.readlink(link).startswith(str(tmp_path)):
            os.dup2(full, int(link.name))
    os.close(full)
    log.write(keys(GCM))
    log.write_child(child(EspSuite(AES_128_GCM_16, None)), child_keys())
    log.close()
    assert caplog.text.count("No space left") == 3


def child(suite: EspSuite) -> ChildSa:
    path = OuterPath(HostPort(ip_address("192.0.2.1"), 4500), HostPort(ip_address("192.0.2.2"), 4500))
    return ChildSa(
        connection="office", child="net", peer=Identity.parse("a.example"), ike=1, local_spi=0xC0FFEE01, remote_spi=0x99,
        suite=suite, local=(), remote=(), path=path, udp=True, keepalive=False,
    )  # fmt: skip


def child_keys(integrity: int = 0) -> ChildKeys:
    return ChildKeys(Secret(b"\1" * 20), Secret(b"\2" * integrity), Secret(b"\3" * 20), Secret(b"\4" * integrity))


def test_both_directions_of_a_child_are_written_beside_the_ike_keys(tmp_path: Path) -> None:
    log = KeyLog(tmp_path / "keys")
    log.write_child(child(EspSuite(AES_128_GCM_16, None)), child_keys())
    log.close()
    assert (tmp_path / "keys.esp").read_text().splitlines() == [
        f'"IPv4","*","*","0xc0ffee01","AES-GCM with 16 octet ICV [RFC4106]","0x{"01" * 20}","NULL",""',
        f'"IPv4","*","*","0x00000099","AES-GCM with 16 octet ICV [RFC4106]","0x{"03" * 20}","NULL",""',
    ]


def test_a_child_that_wireshark_cannot_decrypt_is_left_out() -> None:
    assert esp_lines(child(EspSuite(AES_128_GCM_16, None, esn=True)), child_keys()) == ()
    assert esp_lines(child(EspSuite(CHACHA20_POLY1305, None)), child_keys()) == ()
    assert len(esp_lines(child(EspSuite(AES_128_CBC, HMAC_SHA2_256_128)), child_keys(32))) == 2
