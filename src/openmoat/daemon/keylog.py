"""Writes keys of IKE SAs as Wireshark's `ikev2_decryption_table` wants them, where the operator asked for it by name."""

import os
from pathlib import Path

from openmoat.crypto.numbers import Encr, Integ
from openmoat.errors import SystemFault
from openmoat.ike.events import IkeSaKeys

__all__ = ["KeyLog"]

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


class KeyLog:
    """Appends to one file, readable by its owner only. Whoever reads it reads everything that was sent."""

    def __init__(self, file: Path) -> None:
        try:
            self._descriptor = os.open(
                file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
        except OSError as error:
            raise SystemFault(f"key log {file}: {error.strerror}") from error

    def write(self, keys: IkeSaKeys) -> None:
        """One line; suites that Wireshark has no name for are left out."""
        line = table_line(keys)
        if line:
            os.write(self._descriptor, line.encode() + b"\n")

    def close(self) -> None:
        """Write nothing more."""
        os.close(self._descriptor)


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
