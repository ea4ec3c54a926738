"""Pseudorandom functions and what IKEv2 derives with them (RFC 7296 2.13 to 2.18). Knows no payload, only octets."""

import hmac
from collections.abc import Mapping
from types import MappingProxyType
from typing import Self

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from openmoat.crypto.suites import EspSuite, IkeSuite, PrfRow
from openmoat.errors import Secret

__all__ = [
    "MAX_PRF_PLUS_BLOCKS",
    "ChildKeymat",
    "IkeKeymat",
    "prf",
    "prf_plus",
    "rekeyed_skeyseed",
    "signed_octets",
    "skeyseed",
]

MAX_PRF_PLUS_BLOCKS = 255
"""prf+ counts its blocks in one octet (RFC 7296 2.13)."""

_HASHES: Mapping[str, hashes.HashAlgorithm] = MappingProxyType(
    {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
)


def prf(row: PrfRow, key: bytes, octets: bytes) -> Secret:
    """The negotiated PRF: an HMAC, which takes a key of any length (RFC 7296 2.13, RFC 4868)."""
    return Secret(hmac.digest(key, octets, row.hash))


def prf_plus(row: PrfRow, key: bytes, seed: bytes, size: int) -> Secret:
    """prf+(key, seed), the first `size` octets of T1 | T2 | ... (RFC 7296 2.13)."""
    blocks = -(-size // row.size)
    if blocks > MAX_PRF_PLUS_BLOCKS:
        raise ValueError(f"prf+: {row.name} gives at most {MAX_PRF_PLUS_BLOCKS * row.size} octets, asked for {size}")
    # RFC 5869 2.3 takes its Expand step from here, so one call gives all blocks.
    return Secret(HKDFExpand(_HASHES[row.hash], size, seed).derive(key))


def skeyseed(row: PrfRow, nonce_i: bytes, nonce_r: bytes, shared: Secret) -> Secret:
    """SKEYSEED of a new IKE SA: prf(Ni | Nr, g^ir) (RFC 7296 2.14)."""
    return prf(row, nonce_i + nonce_r, shared)


def rekeyed_skeyseed(old_row: PrfRow, old_sk_d: Secret, nonce_i: bytes, nonce_r: bytes, shared: Secret) -> Secret:
    """SKEYSEED of the successor of an IKE SA: prf(SK_d (old), g^ir (new) | Ni | Nr) (RFC 7296 2.18).

    `old_row` is the PRF of the SA that is replaced; everything after SKEYSEED uses that of the new one.
    """
    return prf(old_row, old_sk_d, shared + nonce_i + nonce_r)


def signed_octets(row: PrfRow, sk_p: Secret, message: bytes, nonce: bytes, id_body: bytes) -> Secret:
    """What an AUTH payload signs: the signer's first message, the other's nonce, prf(SK_p, ID body) (RFC 7296 2.15).

    `message` begins with the IKE header and ends with its last payload, without a non-ESP marker; `sk_p` is SK_pi for
    the initiator's and SK_pr for the responder's signature; `id_body` is the signer's ID payload without generic header.
    """
    return Secret(message + nonce + prf(row, sk_p, id_body))


class IkeKeymat(msgspec.Struct, frozen=True, gc=False):
    """The seven keys of an IKE SA, in the order in which they are cut (RFC 7296 2.14)."""

    sk_d: Secret
    sk_ai: Secret
    """Empty where the encryption is an AEAD (RFC 5282 7.2), as is `sk_ar`."""
    sk_ar: Secret
    sk_ei: Secret
    """With its salt where the encryption is an AEAD (RFC 5282 7.1), as `sk_er`."""
    sk_er: Secret
    sk_pi: Secret
    sk_pr: Secret

    @classmethod
    def derive(cls, suite: IkeSuite, seed_key: Secret, nonce_i: bytes, nonce_r: bytes, spi_i: int, spi_r: int) -> Self:
        """prf+(SKEYSEED, Ni | Nr | SPIi | SPIr), cut; after a rekey with the new nonces, SPIs and algorithms."""
        integrity = suite.integrity.key if suite.integrity else 0
        encryption, own = suite.encryption.key_material, suite.prf.size
        sizes = (own, integrity, integrity, encryption, encryption, own, own)
        seed = nonce_i + nonce_r + spi_i.to_bytes(8, "big") + spi_r.to_bytes(8, "big")
        return cls(*_cut(prf_plus(suite.prf, seed_key, seed, sum(sizes)), sizes))

    def lasting(self) -> Self:
        """What an IKE SA needs after its authentication: SK_d, from which the keys of Child SAs and successors come."""
        none = Secret()
        return type(self)(self.sk_d, none, none, none, none, none, none)


class ChildKeymat(msgspec.Struct, frozen=True, gc=False):
    """KEYMAT of a Child SA, cut to directions (RFC 7296 2.17).

    "Initiator" is who began the exchange that made this Child SA, not who began the IKE SA.
    """

    initiator_to_responder: Secret
    """Encryption key, with its salt where there is one."""
    initiator_to_responder_integrity: Secret
    """Empty where the encryption is an AEAD."""
    responder_to_initiator: Secret
    responder_to_initiator_integrity: Secret

    @classmethod
    def derive(
        cls, row: PrfRow, suite: EspSuite, sk_d: Secret, nonce_i: bytes, nonce_r: bytes, shared: bytes = b""
    ) -> Self:
        """prf+(SK_d, g^ir (new) | Ni | Nr), cut; `shared` is empty where no new key exchange was done.

        In IKE_AUTH the nonces are those of IKE_SA_INIT.
        """
        integrity = suite.integrity.key if suite.integrity else 0
        encryption = suite.encryption.key_material
        sizes = (encryption, integrity, encryption, integrity)
        return cls(*_cut(prf_plus(row, sk_d, shared + nonce_i + nonce_r, sum(sizes)), sizes))


def _cut(stream: Secret, sizes: tuple[int, ...]) -> list[Secret]:
    """Consecutive pieces of `stream`."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(Secret(stream[at : at + size]))
        at += size
    return pieces
