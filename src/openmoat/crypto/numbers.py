"""IANA numbers of transforms, authentication methods, hashes and identities (IKEv2 parameters registry)."""

from openmoat.net import OpenEnum

__all__ = ["AuthMethod", "Encr", "Esn", "HashAlgorithm", "IdType", "Integ", "KeMethod", "Prf"]


class Encr(OpenEnum):
    """Transform type 1, encryption algorithms."""

    DES3 = 3
    NULL = 11
    AES_CBC = 12
    AES_GCM_16 = 20
    NULL_AES_GMAC = 21
    CHACHA20_POLY1305 = 28


class Prf(OpenEnum):
    """Transform type 2, pseudorandom functions."""

    HMAC_SHA1 = 2
    HMAC_SHA2_256 = 5
    HMAC_SHA2_384 = 6
    HMAC_SHA2_512 = 7


class Integ(OpenEnum):
    """Transform type 3, integrity algorithms."""

    NONE = 0
    HMAC_SHA1_96 = 2
    HMAC_SHA2_256_128 = 12
    HMAC_SHA2_384_192 = 13
    HMAC_SHA2_512_256 = 14


class KeMethod(OpenEnum):
    """Transform type 4, key exchange methods (RFC 9370 renames the Diffie-Hellman groups)."""

    NONE = 0
    MODP_1024 = 2
    MODP_1536 = 5
    MODP_2048 = 14
    MODP_3072 = 15
    MODP_4096 = 16
    ECP_256 = 19
    ECP_384 = 20
    ECP_521 = 21
    X25519 = 31
    X448 = 32


class Esn(OpenEnum):
    """Transform type 5, extended sequence numbers."""

    NO = 0
    YES = 1


class AuthMethod(OpenEnum):
    """How an AUTH payload was made (RFC 7296 3.8, RFC 4754, RFC 7427)."""

    RSA = 1
    PSK = 2
    ECDSA_SHA2_256_P256 = 9
    ECDSA_SHA2_384_P384 = 10
    ECDSA_SHA2_512_P521 = 11
    NULL = 13
    SIGNATURE = 14


class HashAlgorithm(OpenEnum):
    """Hashes announced by SIGNATURE_HASH_ALGORITHMS (RFC 7427 7, RFC 8420)."""

    SHA1 = 1
    SHA2_256 = 2
    SHA2_384 = 3
    SHA2_512 = 4
    IDENTITY = 5


class IdType(OpenEnum):
    """Kinds of identification payload (RFC 7296 3.5)."""

    IPV4_ADDR = 1
    FQDN = 2
    RFC822_ADDR = 3
    IPV6_ADDR = 5
    DER_ASN1_DN = 9
    DER_ASN1_GN = 10
    KEY_ID = 11
    NULL = 13
