"""Writes keys as Wireshark's tables want them, where the operator asked for it by name.

The file named gets lines of `ikev2_decryption_table`; one with the same name and `.esp` at its end gets lines of `esp_sa`.
"""

import logging
import os
import stat
from pathlib import Path

from openmoat.crypto.numbers import Encr, Integ
from openmoat.errors import SystemFault
from openmoat.ike.events import ChildKeys, ChildSa, Event, IkeSaKeys

__all__ = ["KeyLog", "KeySink"]

log = logging.getLogger("openmoat.daemon.core.keylog")

ENCRYPTIONS = {
    (Encr.AES_CBC, 128): "AES-CBC-128 [RFC3602]",
    (Encr.AES_CBC, 192): "AES-CBC-192 [RFC3602]",
    (Encr.AES_CBC, 256): "AES-CBC-256 [RFC3602]",
    (Encr.AES_GCM_16, 128): "AES-GCM-128 with 16 octet ICV [RFC5282]",
    (Encr.AES_GCM_16, 192): "AES-GCM-192 with 16 octet ICV [RFC5282]",
    (Encr.AES_GCM_16, 256): "AES-GCM-256 with 16 octet ICV [RFC5282]",
}
INTEGRITIES = {
    Integ.HMAC_SHA2_256_128: "HMAC_SHA2_256_128 [RFC4868]",
    Integ.HMAC_SHA2_384_192: "HMAC_SHA2_384_192 [RFC4868]",
    Integ.HMAC_SHA2_512_256: "HMAC_SHA2_512_256 [RFC4868]",
}
NO_INTEGRITY = "NONE [RFC4306]"
ESP_ENCRYPTIONS = {
    Encr.AES_CBC: "AES-CBC [RFC3602]",
    # Without the length of its ICV in the name Wireshark does not check it.
    Encr.AES_GCM_16: "AES-GCM with 16 octet ICV [RFC4106]",
}
ESP_INTEGRITIES = {
    Integ.HMAC_SHA2_256_128: "HMAC-SHA-256-128 [RFC4868]",
    Integ.HMAC_SHA2_384_192: "HMAC-SHA-384-192 [RFC4868]",
    Integ.HMAC_SHA2_512_256: "HMAC-SHA-512-256 [RFC4868]",
}


class KeyLog:
    """Appends to two files, readable by their owner only. Who reads them can read everything that was sent."""

    def __init__(self, file: Path) -> None:
        self._descriptor = _open(file)
        try:
            self._esp_descriptor = _open(file.with_name(file.name + ".esp"))
        except SystemFault:
            os.close(self._descriptor)
            raise

    def write_child(self, child: ChildSa, keys: ChildKeys) -> None:
        """One line for each direction; suites that Wireshark has no name for, and ESN, are left out."""
        for line in esp_lines(child, keys):
            self._append(self._esp_descriptor, line)

    def write(self, keys: IkeSaKeys) -> None:
        """One line; suites that Wireshark has no name for are left out."""
        line = table_line(keys)
        if line:
            self._append(self._descriptor, line)

    def _append(self, descriptor: int, line: str) -> None:
        """A full disk costs the line, never the SA."""
        try:
            os.write(descriptor, line.encode() + b"\n")
        except OSError as error:
            log.error("key log: %s; a line of keys is missing", error.strerror)

    def close(self) -> None:
        """Write nothing more."""
        os.close(self._descriptor)
        os.close(self._esp_descriptor)


class KeySink:
    """The key log, where there is one: a reload may begin it and end it."""

    def __init__(self, place: str) -> None:
        """`place`: path of its file; empty where none is wanted. Raises `SystemFault`."""
        self._log = KeyLog(Path(place)) if place else None

    def use(self, place: str) -> None:
        """From now on in this file, or nowhere."""
        fresh = KeyLog(Path(place)) if place else None
        self.close()
        self._log = fresh

    def handle_event(self, event: Event) -> None:
        """Note the keys of an IKE SA."""
        if self._log is not None and isinstance(event, IkeSaKeys):
            self._log.write(event)

    def write_child(self, child: ChildSa, keys: ChildKeys) -> None:
        """Note the keys of a Child SA."""
        if self._log is not None:
            self._log.write_child(child, keys)

    def close(self) -> None:
        """Write nothing more."""
        if self._log is not None:
            self._log.close()
        self._log = None


def table_line(keys: IkeSaKeys) -> str:
    """SPIs, SK_ei, SK_er, encryption, SK_ai, SK_ar, integrity; empty where Wireshark cannot decrypt the suite."""
    suite = keys.suite
    encryption = ENCRYPTIONS.get((suite.encryption.id, suite.encryption.key_bits))
    integrity = INTEGRITIES.get(suite.integrity.id) if suite.integrity else NO_INTEGRITY
    if encryption is None or integrity is None:
        return ""
    spis = (f"{keys.initiator_spi:016x}", f"{keys.responder_spi:016x}")
    cells = [
        *spis,
        keys.sk_ei.hex(),
        keys.sk_er.hex(),
        f'"{encryption}"',
        keys.sk_ai.hex(),
        keys.sk_ar.hex(),
        f'"{integrity}"',
    ]
    return ",".join(cells)


def esp_lines(child: ChildSa, keys: ChildKeys) -> tuple[str, ...]:
    """Protocol, source, destination, SPI, encryption, key, integrity, key: inbound first; empty where it has no words."""
    suite = child.suite
    encryption = ESP_ENCRYPTIONS.get(suite.encryption.id)
    integrity = ESP_INTEGRITIES.get(suite.integrity.id) if suite.integrity else "NULL"
    if encryption is None or integrity is None or suite.esn:
        return ()
    version = f"IPv{child.path.local.address.version}"
    halves = (
        (child.local_spi, keys.inbound, keys.inbound_integrity),
        (child.remote_spi, keys.outbound, keys.outbound_integrity),
    )
    # Any address: behind a NAT the packets bear others than those we know, and the SPI with its key tells enough.
    return tuple(
        f'"{version}","*","*","0x{spi:08x}","{encryption}","0x{key.hex()}","{integrity}","{_hexadecimal(mac)}"'
        for spi, key, mac in halves
    )


def _hexadecimal(octets: bytes) -> str:
    return f"0x{octets.hex()}" if octets else ""


def _open(file: Path) -> int:
    # Without O_NONBLOCK a pipe in its place would hold us until somebody reads it.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(file, flags, 0o600)
    except OSError as error:
        raise SystemFault(f"key log {file}: {error.strerror}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077 or status.st_uid != os.geteuid():
        os.close(descriptor)
        mode = stat.S_IMODE(status.st_mode)
        raise SystemFault(
            f"key log {file}: a file of our own with mode 600 is wanted, {mode:03o} of user {status.st_uid} is there"
        )
    return descriptor
