"""One row per algorithm: number, name, sizes, kernel name, status. Everybody else looks it up here.

Status is that of RFC 8221 (ESP) and RFC 8247 (IKEv2). Sizes are octets unless the name says bits. A row is equal to itself
alone: each exists once, and suites and proposals made of rows are looked up in tables for every SA.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from openmoat.crypto.numbers import Encr, Integ, KeMethod, Prf

__all__ = [
    "AEADS",
    "CIPHERS",
    "ENCRYPTIONS",
    "INTEGRITIES",
    "KE_METHODS",
    "PRFS",
    "Aead",
    "Cipher",
    "Encryption",
    "EspSuite",
    "IkeSuite",
    "Integrity",
    "KeyExchange",
    "PrfRow",
    "Status",
    "by_name",
]


class Status(Enum):
    """What the RFC says of an algorithm today; we propose MUST and SHOULD, and take MAY where configured."""

    MUST = "must"
    SHOULD = "should"
    MAY = "may"
    SHOULD_NOT = "should not"
    MUST_NOT = "must not"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Aead:
    """A combined-mode cipher: encrypts and authenticates in one pass (RFC 5282, RFC 4106, RFC 7634)."""

    name: str
    """Word of the configuration, and of every output."""
    id: Encr
    key_bits: int
    has_key_length: bool = True
    """Whether the transform carries a Key Length attribute (RFC 7296 3.3.5)."""
    salt: int
    """Octets of keying material after the key that go into every nonce."""
    iv: int
    """Octets of explicit IV on the wire."""
    icv: int
    align: int = 4
    """The padded plaintext of ESP is a multiple of this (RFC 4303 2.4)."""
    kernel: str
    ike: Status
    esp: Status

    @property
    def key(self) -> int:
        """Octets of key, without the salt."""
        return self.key_bits // 8

    @property
    def key_material(self) -> int:
        """Octets taken from KEYMAT or SK_e: key and salt."""
        return self.key + self.salt


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cipher:
    """A cipher that needs an integrity algorithm beside it."""

    name: str
    id: Encr
    key_bits: int
    has_key_length: bool = True
    iv: int
    align: int
    """Block size: plaintext is padded to a multiple of it."""
    kernel: str
    ike: Status
    esp: Status
    salt: int = 0
    icv: int = 0

    @property
    def key(self) -> int:
        """Octets of key."""
        return self.key_bits // 8

    @property
    def key_material(self) -> int:
        """Octets taken from KEYMAT or SK_e."""
        return self.key


Encryption = Aead | Cipher


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Integrity:
    """A MAC over ciphertext (RFC 4868)."""

    name: str
    id: Integ
    hash: str
    """Name of the hash as `hashlib` writes it."""
    key: int
    icv: int
    kernel: str
    ike: Status
    esp: Status


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrfRow:
    """A pseudorandom function: HMAC with a hash (RFC 7296 2.13). Key and output are of one size."""

    name: str
    id: Prf
    hash: str
    size: int
    ike: Status


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeyExchange:
    """A key exchange method and the sizes of what it puts on the wire."""

    name: str
    id: KeMethod
    public: int
    shared: int
    cost: int
    """Rough price of one shared secret in units of X25519; above 4 it must not run in the event loop."""
    ike: Status


AES_128_GCM_16 = Aead(name="aes128gcm16", id=Encr.AES_GCM_16, key_bits=128, salt=4, iv=8, icv=16, kernel="rfc4106(gcm(aes))", ike=Status.SHOULD, esp=Status.MUST)
AES_192_GCM_16 = Aead(name="aes192gcm16", id=Encr.AES_GCM_16, key_bits=192, salt=4, iv=8, icv=16, kernel="rfc4106(gcm(aes))", ike=Status.MAY, esp=Status.MAY)
AES_256_GCM_16 = Aead(name="aes256gcm16", id=Encr.AES_GCM_16, key_bits=256, salt=4, iv=8, icv=16, kernel="rfc4106(gcm(aes))", ike=Status.SHOULD, esp=Status.MUST)
CHACHA20_POLY1305 = Aead(name="chacha20poly1305", id=Encr.CHACHA20_POLY1305, key_bits=256, has_key_length=False, salt=4, iv=8, icv=16, kernel="rfc7539esp(chacha20,poly1305)", ike=Status.SHOULD, esp=Status.SHOULD)
NULL_AES_128_GMAC = Aead(name="null-aes128gmac", id=Encr.NULL_AES_GMAC, key_bits=128, salt=4, iv=8, icv=16, kernel="rfc4543(gcm(aes))", ike=Status.MUST_NOT, esp=Status.MAY)
NULL_AES_256_GMAC = Aead(name="null-aes256gmac", id=Encr.NULL_AES_GMAC, key_bits=256, salt=4, iv=8, icv=16, kernel="rfc4543(gcm(aes))", ike=Status.MUST_NOT, esp=Status.MAY)
AES_128_CBC = Cipher(name="aes128", id=Encr.AES_CBC, key_bits=128, iv=16, align=16, kernel="cbc(aes)", ike=Status.MUST, esp=Status.MUST)
AES_192_CBC = Cipher(name="aes192", id=Encr.AES_CBC, key_bits=192, iv=16, align=16, kernel="cbc(aes)", ike=Status.MAY, esp=Status.MAY)
AES_256_CBC = Cipher(name="aes256", id=Encr.AES_CBC, key_bits=256, iv=16, align=16, kernel="cbc(aes)", ike=Status.MUST, esp=Status.MUST)

HMAC_SHA2_256_128 = Integrity(name="sha256", id=Integ.HMAC_SHA2_256_128, hash="sha256", key=32, icv=16, kernel="hmac(sha256)", ike=Status.MUST, esp=Status.MUST)
HMAC_SHA2_384_192 = Integrity(name="sha384", id=Integ.HMAC_SHA2_384_192, hash="sha384", key=48, icv=24, kernel="hmac(sha384)", ike=Status.MAY, esp=Status.MAY)
HMAC_SHA2_512_256 = Integrity(name="sha512", id=Integ.HMAC_SHA2_512_256, hash="sha512", key=64, icv=32, kernel="hmac(sha512)", ike=Status.SHOULD, esp=Status.SHOULD)

PRF_HMAC_SHA2_256 = PrfRow(name="prfsha256", id=Prf.HMAC_SHA2_256, hash="sha256", size=32, ike=Status.MUST)
PRF_HMAC_SHA2_384 = PrfRow(name="prfsha384", id=Prf.HMAC_SHA2_384, hash="sha384", size=48, ike=Status.MAY)
PRF_HMAC_SHA2_512 = PrfRow(name="prfsha512", id=Prf.HMAC_SHA2_512, hash="sha512", size=64, ike=Status.SHOULD)

X25519 = KeyExchange(name="x25519", id=KeMethod.X25519, public=32, shared=32, cost=1, ike=Status.SHOULD)
X448 = KeyExchange(name="x448", id=KeMethod.X448, public=56, shared=56, cost=4, ike=Status.MAY)
ECP_256 = KeyExchange(name="ecp256", id=KeMethod.ECP_256, public=64, shared=32, cost=2, ike=Status.SHOULD)
ECP_384 = KeyExchange(name="ecp384", id=KeMethod.ECP_384, public=96, shared=48, cost=20, ike=Status.MAY)
ECP_521 = KeyExchange(name="ecp521", id=KeMethod.ECP_521, public=132, shared=66, cost=10, ike=Status.MAY)
MODP_2048 = KeyExchange(name="modp2048", id=KeMethod.MODP_2048, public=256, shared=256, cost=30, ike=Status.MUST)
MODP_3072 = KeyExchange(name="modp3072", id=KeMethod.MODP_3072, public=384, shared=384, cost=80, ike=Status.MAY)
MODP_4096 = KeyExchange(name="modp4096", id=KeMethod.MODP_4096, public=512, shared=512, cost=160, ike=Status.MAY)

AEADS = (AES_128_GCM_16, AES_192_GCM_16, AES_256_GCM_16, CHACHA20_POLY1305, NULL_AES_128_GMAC, NULL_AES_256_GMAC)
CIPHERS = (AES_128_CBC, AES_192_CBC, AES_256_CBC)
ENCRYPTIONS: tuple[Encryption, ...] = (*AEADS, *CIPHERS)
INTEGRITIES = (HMAC_SHA2_256_128, HMAC_SHA2_384_192, HMAC_SHA2_512_256)
PRFS = (PRF_HMAC_SHA2_256, PRF_HMAC_SHA2_384, PRF_HMAC_SHA2_512)
KE_METHODS = (X25519, X448, ECP_256, ECP_384, ECP_521, MODP_2048, MODP_3072, MODP_4096)

Row = TypeVar("Row", Aead, Cipher, Integrity, PrfRow, KeyExchange)


def by_name(rows: tuple[Row, ...]) -> Mapping[str, Row]:
    """The rows of one table under their configuration words."""
    return {row.name: row for row in rows}


@dataclass(frozen=True, slots=True)
class EspSuite:
    """What protects the packets of one Child SA."""

    encryption: Encryption
    integrity: Integrity | None
    """None exactly where `encryption` is an `Aead`."""
    esn: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.encryption, Aead) != (self.integrity is None):
            raise ValueError(f"{self.encryption.name}: an integrity algorithm goes with a cipher, and only with a cipher")

    @property
    def name(self) -> str:
        """As the configuration writes it: `aes128-sha256-esn`."""
        parts = [self.encryption.name, self.integrity.name if self.integrity else "", "esn" if self.esn else ""]
        return "-".join(part for part in parts if part)

    @property
    def icv(self) -> int:
        """Octets of integrity check value at the end of each packet."""
        return self.integrity.icv if self.integrity else self.encryption.icv


@dataclass(frozen=True, slots=True)
class IkeSuite:
    """What protects the messages of one IKE SA."""

    encryption: Encryption
    integrity: Integrity | None
    prf: PrfRow
    key_exchange: KeyExchange

    def __post_init__(self) -> None:
        if isinstance(self.encryption, Aead) != (self.integrity is None):
            raise ValueError(f"{self.encryption.name}: an integrity algorithm goes with a cipher, and only with a cipher")

    @property
    def name(self) -> str:
        """As the configuration writes it: `aes128gcm16-prfsha256-x25519`."""
        parts = [self.encryption.name, self.integrity.name if self.integrity else "", self.prf.name, self.key_exchange.name]
        return "-".join(part for part in parts if part)
