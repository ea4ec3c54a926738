"""Key derivation of RFC 7296 against another library's HKDF and the definitions written out."""

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from openmoat.crypto.keymat import (
    MAX_PRF_PLUS_BLOCKS,
    ChildKeymat,
    IkeKeymat,
    prf,
    prf_plus,
    rekeyed_skeyseed,
    signed_octets,
    skeyseed,
)
from openmoat.crypto.suites import (
    AES_128_CBC,
    AES_256_GCM_16,
    CHACHA20_POLY1305,
    HMAC_SHA2_256_128,
    PRF_HMAC_SHA2_256,
    PRF_HMAC_SHA2_512,
    PRFS,
    X25519,
    EspSuite,
    IkeSuite,
    PrfRow,
)
from openmoat.errors import Secret

NI, NR = b"i" * 32, b"r" * 48
SK_D = Secret(b"d" * 32)


@pytest.mark.parametrize("row", PRFS, ids=lambda row: row.name)
def test_prf_plus_chains_its_blocks_as_the_rfc_writes_it(row: PrfRow) -> None:
    key, block, stream = b"k" * row.size, b"", b""
    for number in range(1, 32):
        block = hmac.digest(key, block + b"seed" + bytes((number,)), row.hash)
        stream += block
    for size in (1, row.size, row.size + 1, 900):
        assert prf_plus(row, key, b"seed", size) == stream[:size]


def test_prf_plus_stops_where_its_counter_ends() -> None:
    most = MAX_PRF_PLUS_BLOCKS * PRF_HMAC_SHA2_256.size
    assert len(prf_plus(PRF_HMAC_SHA2_256, b"k", b"s", most)) == most
    with pytest.raises(ValueError, match="at most 8160 octets, asked for 8161"):
        prf_plus(PRF_HMAC_SHA2_256, b"k", b"s", most + 1)


def test_skeyseed_is_keyed_with_both_nonces() -> None:
    expected = hmac.new(NI + NR, b"shared", hashlib.sha256).digest()
    assert skeyseed(PRF_HMAC_SHA2_256, NI, NR, Secret(b"shared")) == expected


def test_skeyseed_of_a_rekeyed_sa_is_keyed_with_the_old_sk_d() -> None:
    expected = hmac.new(SK_D, b"shared" + NI + NR, hashlib.sha512).digest()
    assert rekeyed_skeyseed(PRF_HMAC_SHA2_512, SK_D, NI, NR, Secret(b"shared")) == expected


def test_ike_keys_are_cut_in_the_order_of_the_rfc() -> None:
    suite = IkeSuite(AES_128_CBC, HMAC_SHA2_256_128, PRF_HMAC_SHA2_256, X25519)
    keys = IkeKeymat.derive(suite, SK_D, NI, NR, 0x0102030405060708, 0x1112131415161718)
    seed = NI + NR + bytes.fromhex("0102030405060708 1112131415161718")
    stream = HKDFExpand(hashes.SHA256(), 32 * 3 + 32 * 2 + 16 * 2, seed).derive(SK_D)
    pieces = (keys.sk_d, keys.sk_ai, keys.sk_ar, keys.sk_ei, keys.sk_er, keys.sk_pi, keys.sk_pr)
    assert [len(piece) for piece in pieces] == [32, 32, 32, 16, 16, 32, 32]
    assert b"".join(pieces) == stream


def test_an_aead_takes_salts_and_no_integrity_keys() -> None:
    keys = IkeKeymat.derive(IkeSuite(AES_256_GCM_16, None, PRF_HMAC_SHA2_256, X25519), SK_D, NI, NR, 1, 2)
    assert (len(keys.sk_ai), len(keys.sk_ei), len(keys.sk_er)) == (0, 36, 36)


def test_child_keys_of_the_initiator_come_first_and_encryption_before_integrity() -> None:
    suite = EspSuite(AES_128_CBC, HMAC_SHA2_256_128)
    keys = ChildKeymat.derive(PRF_HMAC_SHA2_256, suite, SK_D, NI, NR)
    stream = HKDFExpand(hashes.SHA256(), 2 * (16 + 32), NI + NR).derive(SK_D)
    assert (
        keys.initiator_to_responder
        + keys.initiator_to_responder_integrity
        + keys.responder_to_initiator
        + keys.responder_to_initiator_integrity
    ) == stream
    assert len(keys.initiator_to_responder) == 16


def test_a_new_key_exchange_goes_before_the_nonces_of_a_child() -> None:
    suite = EspSuite(CHACHA20_POLY1305, None)
    keys = ChildKeymat.derive(PRF_HMAC_SHA2_256, suite, SK_D, NI, NR, b"shared")
    stream = HKDFExpand(hashes.SHA256(), 72, b"shared" + NI + NR).derive(SK_D)
    assert (keys.initiator_to_responder, keys.responder_to_initiator) == (stream[:36], stream[36:])


def test_signed_octets_end_with_the_prf_of_the_identity() -> None:
    octets = signed_octets(PRF_HMAC_SHA2_256, Secret(b"p" * 32), b"message", b"nonce", b"\x02\0\0\0home")
    assert octets == b"message" + b"nonce" + prf(PRF_HMAC_SHA2_256, b"p" * 32, b"\x02\0\0\0home")


def test_keys_do_not_show_themselves() -> None:
    keys = ChildKeymat.derive(PRF_HMAC_SHA2_256, EspSuite(CHACHA20_POLY1305, None), SK_D, NI, NR)
    assert repr(keys).count("<36 secret octets>") == 2
