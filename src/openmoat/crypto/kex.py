"""Key exchange methods behind one interface: private value from given octets, public value, shared secret.

Sizes on the wire are those of RFC 7296 3.4 and 2.14 (MODP), RFC 5903 (ECP) and RFC 8031 (X25519, X448); what a peer sends
is checked as RFC 6989 demands before it is used. Finite-field exchanges run in pyca/cryptography although it deprecates
them: a modular power in Python costs four to eight times as much, keeps the interpreter to itself meanwhile, and takes a
time that depends on the exponent. When pyca drops them, only `_Modp` changes.
"""

import warnings
from abc import ABC, abstractmethod
from functools import cache

from cryptography.hazmat.primitives.asymmetric import dh, ec, x448
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning

from openmoat import _native
from openmoat.crypto.numbers import KeMethod
from openmoat.crypto.suites import KE_METHODS
from openmoat.errors import BadPublicValue, Secret

__all__ = ["make_key_pair", "modp_prime", "seed_size", "shared_secret"]

# pyca warns on every finite-field object. What we think of that is said above, once.
warnings.filterwarnings("ignore", "Diffie-Hellman over finite fields", CryptographyDeprecationWarning)

ROWS = {row.id: row for row in KE_METHODS}


def seed_size(method: KeMethod) -> int:
    """Octets of randomness that `make_key_pair` wants."""
    return _METHODS[method].seed


def make_key_pair(method: KeMethod, seed: bytes) -> tuple[bytes, Secret]:
    """Public value for the KE payload and the private value, which only `shared_secret` can read.

    `seed` must be fresh from a cryptographic source, `seed_size` octets of it: the same seed gives the same pair.
    """
    exchange = _METHODS[method]
    if len(seed) != exchange.seed:
        raise ValueError(f"{ROWS[method].name}: a seed has {exchange.seed} octets, not {len(seed)}")
    return exchange.make(seed)


def shared_secret(method: KeMethod, private: Secret, peer_value: bytes) -> Secret:
    """g^ir as it goes into SKEYSEED (RFC 7296 2.14).

    Raises `BadPublicValue` where the peer's value has the wrong length, is no element of the group, or leads to a
    secret that anybody could know.
    """
    row = ROWS[method]
    if len(peer_value) != row.public:
        raise BadPublicValue(f"KE: a {row.name} value has {row.public} octets, not {len(peer_value)}")
    try:
        return _METHODS[method].share(private, peer_value)
    except ValueError as error:
        raise BadPublicValue(f"KE: not a sound {row.name} value: {error}") from None


class _Exchange(ABC):
    """One method; `share` raises ValueError for a value that is not sound."""

    seed: int

    @abstractmethod
    def make(self, seed: bytes) -> tuple[bytes, Secret]: ...

    @abstractmethod
    def share(self, private: Secret, peer_value: bytes) -> Secret: ...


class _X25519(_Exchange):
    """RFC 7748, RFC 8031. Of aws-lc, which refuses a peer's value that leads to all zeros: pyca took a tenth of a handshake."""

    seed = 32

    def make(self, seed: bytes) -> tuple[bytes, Secret]:
        return _native.x25519_public(seed), Secret(seed)

    def share(self, private: Secret, peer_value: bytes) -> Secret:
        return Secret(_native.x25519_shared(private, peer_value))


class _X448(_Exchange):
    """RFC 7748, RFC 8031. pyca refuses a peer's value that leads to all zeros."""

    seed = 56

    def make(self, seed: bytes) -> tuple[bytes, Secret]:
        key = x448.X448PrivateKey.from_private_bytes(seed)
        return key.public_key().public_bytes_raw(), Secret(seed)

    def share(self, private: Secret, peer_value: bytes) -> Secret:
        peer = x448.X448PublicKey.from_public_bytes(peer_value)
        return Secret(x448.X448PrivateKey.from_private_bytes(private).exchange(peer))


class _Ecp(_Exchange):
    """RFC 5903: a value is x | y, the secret is x alone. The private value is scalar | x | y."""

    def __init__(self, curve: ec.EllipticCurve) -> None:
        self.curve = curve
        self.octets = (curve.key_size + 7) // 8
        # 64 bits more than the order has make the bias of a plain remainder negligible (FIPS 186-5 A.2.1).
        self.seed = self.octets + 8

    def make(self, seed: bytes) -> tuple[bytes, Secret]:
        scalar = int.from_bytes(seed, "big") % (self.curve.group_order - 1) + 1
        public = ec.derive_private_key(scalar, self.curve).public_key()
        point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
        return point, Secret(scalar.to_bytes(self.octets, "big") + point)

    def share(self, private: Secret, peer_value: bytes) -> Secret:
        # RFC 6989 2.3: both coordinates below p and on the curve, which pyca checks; the cofactor is 1, and the point at
        # infinity has no encoding of this length.
        peer = ec.EllipticCurvePublicKey.from_encoded_point(self.curve, b"\x04" + peer_value)
        scalar, x, y = (int.from_bytes(private[at : at + self.octets], "big") for at in self._thirds())
        own = ec.EllipticCurvePrivateNumbers(scalar, ec.EllipticCurvePublicNumbers(x, y, self.curve)).private_key()
        return Secret(own.exchange(ec.ECDH(), peer))

    def _thirds(self) -> range:
        return range(0, 3 * self.octets, self.octets)


class _Modp(_Exchange):
    """RFC 3526 over its safe primes, generator 2, with exponents of the length its section 8 gives at most."""

    def __init__(self, bits: int, exponent_bits: int) -> None:
        self.bits = bits
        self.seed = exponent_bits // 8

    def make(self, seed: bytes) -> tuple[bytes, Secret]:
        private = Secret(b"\x01" + seed)  # the leading bit keeps the exponent long, whatever the seed
        return self._power(private, 2), private

    def share(self, private: Secret, peer_value: bytes) -> Secret:
        value = int.from_bytes(peer_value, "big")
        if not 1 < value < modp_prime(self.bits) - 1:  # RFC 6989 2.1, enough for a safe prime and a fresh exponent
            raise ValueError("not between 1 and p - 1")
        return Secret(self._power(private, value))

    def _power(self, private: Secret, base: int) -> bytes:
        """base^private mod p, left-padded to the size of p, in constant time."""
        group = dh.DHParameterNumbers(modp_prime(self.bits), 2)
        # pyca wants a public value beside the exponent and does not use it: 2 stands in its place.
        own = dh.DHPrivateNumbers(int.from_bytes(private, "big"), dh.DHPublicNumbers(2, group)).private_key()
        return own.exchange(dh.DHPublicNumbers(base, group).public_key())


@cache
def modp_prime(bits: int) -> int:
    """The prime of RFC 3526 of this size: 2^n - 2^(n-64) - 1 + 2^64 * (floor(2^(n-130) * pi) + k)."""
    return (1 << bits) - (1 << (bits - 64)) - 1 + ((_scaled_pi(bits - 130) + _MODP_K[bits]) << 64)


_MODP_K = {2048: 124476, 3072: 1690314, 4096: 240904}
"""The smallest k that makes a safe prime (RFC 3526 3 to 5)."""


def _scaled_pi(bits: int) -> int:
    """floor(2^bits * pi), by Machin's formula with 64 bits to spare."""
    one = 1 << (bits + 64)
    return 4 * (4 * _scaled_arctan(one, 5) - _scaled_arctan(one, 239)) >> 64


def _scaled_arctan(one: int, inverse: int) -> int:
    """Arcus tangent of 1 / inverse, times one."""
    power = total = one // inverse
    odd, sign = 3, -1
    while power:
        power //= inverse * inverse
        total += sign * (power // odd)
        odd, sign = odd + 2, -sign
    return total


_METHODS: dict[KeMethod, _Exchange] = {
    KeMethod.X25519: _X25519(),
    KeMethod.X448: _X448(),
    KeMethod.ECP_256: _Ecp(ec.SECP256R1()),
    KeMethod.ECP_384: _Ecp(ec.SECP384R1()),
    KeMethod.ECP_521: _Ecp(ec.SECP521R1()),
    KeMethod.MODP_2048: _Modp(2048, 320),
    KeMethod.MODP_3072: _Modp(3072, 416),
    KeMethod.MODP_4096: _Modp(4096, 480),
}
