"""Key exchange: both ends agree, sizes are those of the wire, and values that would give a secret away are refused."""

import json
from pathlib import Path

import pytest

from openmoat.crypto.kex import make_key_pair, modp_prime, seed_size, shared_secret
from openmoat.crypto.numbers import KeMethod
from openmoat.crypto.suites import KE_METHODS, KeyExchange
from openmoat.errors import BadPublicValue

VECTORS = Path(__file__).parents[2] / "vectors"
EVERY_METHOD = pytest.mark.parametrize("row", KE_METHODS, ids=lambda row: row.name)


def seed(row: KeyExchange, octet: int) -> bytes:
    return bytes([octet]) * seed_size(row.id)


@EVERY_METHOD
def test_both_ends_get_the_same_secret_of_the_stated_size(row: KeyExchange) -> None:
    public_i, private_i = make_key_pair(row.id, seed(row, 0x11))
    public_r, private_r = make_key_pair(row.id, seed(row, 0x22))
    secret = shared_secret(row.id, private_i, public_r)
    assert secret == shared_secret(row.id, private_r, public_i)
    assert (len(public_i), len(secret)) == (row.public, row.shared)


@EVERY_METHOD
def test_the_same_seed_gives_the_same_pair(row: KeyExchange) -> None:
    assert make_key_pair(row.id, seed(row, 7)) == make_key_pair(row.id, seed(row, 7))
    assert make_key_pair(row.id, seed(row, 7)) != make_key_pair(row.id, seed(row, 8))


@EVERY_METHOD
def test_all_zeros_and_wrong_lengths_are_refused(row: KeyExchange) -> None:
    public, private = make_key_pair(row.id, seed(row, 7))
    for value in (b"", bytes(row.public), public[:-1], public + b"\0"):
        with pytest.raises(BadPublicValue, match=f"^KE: .*{row.name}"):
            shared_secret(row.id, private, value)


@EVERY_METHOD
def test_a_seed_of_the_wrong_length_is_our_own_mistake(row: KeyExchange) -> None:
    with pytest.raises(ValueError, match=f"a seed has {seed_size(row.id)} octets, not 3"):
        make_key_pair(row.id, b"abc")


@pytest.mark.parametrize("method", [KeMethod.ECP_256, KeMethod.ECP_384, KeMethod.ECP_521])
def test_a_point_off_the_curve_is_refused(method: KeMethod) -> None:
    public, private = make_key_pair(method, bytes([1]) * seed_size(method))
    with pytest.raises(BadPublicValue, match="not a sound ecp"):
        shared_secret(method, private, public[:-1] + bytes([public[-1] ^ 1]))


@pytest.mark.parametrize(
    ("method", "bits"), [(KeMethod.MODP_2048, 2048), (KeMethod.MODP_3072, 3072), (KeMethod.MODP_4096, 4096)]
)
def test_modp_values_outside_two_to_p_minus_two_are_refused(method: KeMethod, bits: int) -> None:
    _, private = make_key_pair(method, bytes([1]) * seed_size(method))
    prime = modp_prime(bits)
    for value in (0, 1, prime - 1, prime, prime + 1):
        with pytest.raises(BadPublicValue):
            shared_secret(method, private, value.to_bytes(bits // 8, "big"))
    assert shared_secret(method, private, (2).to_bytes(bits // 8, "big"))


def test_modp_secrets_keep_their_leading_zeros() -> None:
    exponent = 1 << 320  # what a seed of zeros gives
    _, private = make_key_pair(KeMethod.MODP_2048, bytes(40))
    prime = modp_prime(2048)
    base = 382  # the smallest that gives a leading zero
    secret = shared_secret(KeMethod.MODP_2048, private, base.to_bytes(256, "big"))
    assert secret == pow(base, exponent, prime).to_bytes(256, "big")
    assert secret[0] == 0


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_modp_primes_are_those_printed_in_rfc_3526(bits: int) -> None:
    printed = json.loads((VECTORS / "rfc3526.json").read_text())["primes"][str(bits)]
    assert modp_prime(bits) == int("".join(printed), 16)
