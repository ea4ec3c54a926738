"""Seals and opens the content of SK and SKF payloads (RFC 7296 3.14, RFC 5282). Knows no payload, only octets."""

import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher as BlockCipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

from openmoat.crypto.numbers import Encr
from openmoat.crypto.suites import Aead, Encryption, Integrity
from openmoat.errors import BadIcv, Secret

__all__ = ["SkProtection"]

_AEADS: dict[Encr, type[AESGCM] | type[ChaCha20Poly1305]] = {
    Encr.AES_GCM_16: AESGCM,
    Encr.CHACHA20_POLY1305: ChaCha20Poly1305,
}


class SkProtection:
    """Protects one direction of an IKE SA: SK_ei and SK_ai, or SK_er and SK_ar.

    `associated` is always everything from the first octet of the IKE header up to and including the generic header of
    the SK payload (and, in SKF, the fragment numbers): associated data of an AEAD (RFC 5282 5.1), first part of what
    the HMAC covers otherwise. Its length fields must hold their final values, so ask `sealed_size` first.
    """

    __slots__ = ("_aead", "_encryption", "_integrity", "_integrity_key", "_key", "_salt")

    def __init__(self, encryption: Encryption, integrity: Integrity | None, key: Secret, integrity_key: Secret) -> None:
        """Keys as `keymat.IkeKeymat` cuts them: `key` with its salt, `integrity_key` empty with an AEAD."""
        sizes = (encryption.key_material, integrity.key if integrity else 0)
        if (len(key), len(integrity_key)) != sizes:
            came = (len(key), len(integrity_key))
            raise ValueError(f"{encryption.name}: key and integrity key need {sizes} octets, not {came}")
        if isinstance(encryption, Aead) != (integrity is None):
            raise ValueError(f"{encryption.name}: an integrity algorithm goes with a cipher, and only with a cipher")
        self._encryption = encryption
        self._integrity = integrity
        self._integrity_key = integrity_key
        # The key as octets: a cipher that is ready has two and a half KiB, is made in 3 µs, and an IKE SA hardly speaks.
        self._key = Secret(key[: encryption.key])
        self._salt = Secret(key[encryption.key :])
        self._aead: type[AESGCM | ChaCha20Poly1305] | None = None
        if isinstance(encryption, Aead):
            if encryption.id not in _AEADS:
                raise ValueError(f"{encryption.name}: does not encrypt, so it cannot protect an IKE SA")
            self._aead = _AEADS[encryption.id]

    @property
    def iv_size(self) -> int:
        """Octets of initialization vector: never used twice with AEADs, not to be foreseen with CBC (RFC 7296 3.14)."""
        return self._encryption.iv

    @property
    def icv_size(self) -> int:
        """Octets of integrity check value at the end."""
        return self._integrity.icv if self._integrity else self._encryption.icv

    def sealed_size(self, plaintext_size: int) -> int:
        """Octets that `seal` gives for so many octets of plaintext."""
        return self.iv_size + plaintext_size + self._padding(plaintext_size) + 1 + self.icv_size

    def seal(self, associated: bytes, plaintext: bytes, iv: bytes) -> bytes:
        """IV | ciphertext of (plaintext | padding | pad length) | ICV."""
        if len(iv) != self.iv_size:
            raise ValueError(f"{self._encryption.name}: the IV has {self.iv_size} octets, not {len(iv)}")
        padding = self._padding(len(plaintext))
        padded = plaintext + bytes(padding) + bytes((padding,))
        if self._aead is not None:
            return iv + self._aead(self._key).encrypt(self._salt + iv, padded, associated)
        body = iv + self._crypt(iv, padded, encrypts=True)
        return body + self._mac(associated + body)

    def open(self, associated: bytes, body: bytes) -> bytes:
        """Plaintext of what `seal` gave, or `BadIcv`; nothing is decrypted before the ICV is found good."""
        iv, rest = body[: self.iv_size], body[self.iv_size :]
        size = len(rest) - self.icv_size
        if size < 1 or size % self._block:
            raise BadIcv(f"encrypted payload: {len(body)} octets cannot hold IV, whole blocks and ICV")
        if self._aead is not None:
            try:
                padded = self._aead(self._key).decrypt(self._salt + iv, rest, associated)
            except InvalidTag:
                raise BadIcv("encrypted payload: ICV does not fit") from None
        else:
            if not hmac.compare_digest(self._mac(associated + iv + rest[:size]), rest[size:]):
                raise BadIcv("encrypted payload: ICV does not fit")
            padded = self._crypt(iv, rest[:size], encrypts=False)
        # The peer chooses amount and content of the padding freely (RFC 7296 3.14); it was authenticated above.
        padding = padded[-1]
        if padding >= len(padded):
            raise BadIcv(f"encrypted payload: pad length {padding} in {len(padded)} octets")
        return padded[: -1 - padding]

    @property
    def _block(self) -> int:
        """Ciphertext is a multiple of this; AEADs need no padding in IKE (RFC 5282 3)."""
        return 1 if self._aead is not None else self._encryption.align

    def _padding(self, plaintext_size: int) -> int:
        """Octets of padding, without the Pad Length octet."""
        return -(plaintext_size + 1) % self._block

    def _crypt(self, iv: bytes, octets: bytes, *, encrypts: bool) -> bytes:
        """AES-CBC over whole blocks (RFC 3602)."""
        cipher = BlockCipher(AES(self._key), CBC(iv))
        context = cipher.encryptor() if encrypts else cipher.decryptor()
        return context.update(octets) + context.finalize()

    def _mac(self, octets: bytes) -> bytes:
        """The truncated HMAC of RFC 4868."""
        if self._integrity is None:
            raise ValueError(f"{self._encryption.name}: has no integrity algorithm of its own")
        return hmac.digest(self._integrity_key, octets, self._integrity.hash)[: self._integrity.icv]
