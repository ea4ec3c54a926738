from collections.abc import Iterator
from itertools import count

import pytest

from openmoat.crypto.protection import SkProtection
from openmoat.crypto.suites import AES_128_CBC, AES_256_GCM_16, HMAC_SHA2_256_128, Encryption, Integrity
from openmoat.errors import BadIcv, Secret
from openmoat.ike.errors import MalformedMessage
from openmoat.ike.wire.fragments import MAX_FRAGMENTS, MAX_REASSEMBLED, REASSEMBLY_SECONDS, Reassembly, seal_fragments
from openmoat.ike.wire.message import Header, Message
from openmoat.ike.wire.numbers import CertEncoding, ExchangeType, PayloadType
from openmoat.ike.wire.payloads import Cert, EncryptedFragment

HEADER = Header(1, 2, ExchangeType.IKE_AUTH, is_initiator=True, is_response=False, message_id=1)
MESSAGE = Message(HEADER, (Cert(CertEncoding.X509_SIGNATURE, bytes(range(256)) * 20), Cert(CertEncoding.CRL, b"x")))
WHOLE = Message(HEADER, MESSAGE.payloads, is_protected=True)


def protection(encryption: Encryption = AES_256_GCM_16, integrity: Integrity | None = None) -> SkProtection:
    return SkProtection(
        encryption, integrity, Secret(bytes(encryption.key_material)), Secret(bytes(integrity.key if integrity else 0))
    )


KEYS = protection()


def ivs(size: int = 8) -> Iterator[bytes]:
    return (number.to_bytes(size, "big") for number in count())


def fragments(size: int, message: Message = MESSAGE) -> tuple[bytes, ...]:
    source = ivs()
    return seal_fragments(message, KEYS, lambda: next(source), size)


def add(reassembly: Reassembly, datagram: bytes, now: float = 0.0) -> Message | None:
    return reassembly.add(datagram, Message.parse(datagram), KEYS, now)


@pytest.mark.parametrize("size", [200, 576, 1248, 4096, 60000])
@pytest.mark.parametrize("suite", [(AES_256_GCM_16, None), (AES_128_CBC, HMAC_SHA2_256_128)])
def test_no_fragment_is_larger_than_asked_and_all_but_the_last_nearly_fill_it(
    size: int, suite: tuple[Encryption, Integrity | None]
) -> None:
    keys, source = protection(*suite), ivs(suite[0].iv)
    datagrams = seal_fragments(MESSAGE, keys, lambda: next(source), size)
    assert all(len(datagram) <= size for datagram in datagrams)
    assert all(len(datagram) > size - 17 for datagram in datagrams[:-1])
    reassembly = Reassembly()
    results = [reassembly.add(datagram, Message.parse(datagram), keys, 0.0) for datagram in datagrams]
    assert results[-1] == WHOLE


def test_fragments_in_any_order_and_repeated_make_the_message_once() -> None:
    datagrams = fragments(576)
    reassembly = Reassembly()
    results = [add(reassembly, datagram) for datagram in (*datagrams[:0:-1], *datagrams[:0:-1], datagrams[0])]
    assert results[:-1] == [None] * (len(results) - 1)
    assert results[-1] == WHOLE
    assert reassembly.octets == 0


def test_a_greater_total_starts_anew_and_a_smaller_one_is_dropped() -> None:
    large, small = fragments(1248), fragments(576)
    reassembly = Reassembly()
    add(reassembly, large[0])
    add(reassembly, small[1])
    assert add(reassembly, large[1]) is None
    assert [add(reassembly, datagram) for datagram in (small[0], *small[2:])][-1] == WHOLE


def test_a_fragment_with_a_bad_icv_changes_nothing() -> None:
    large, small = fragments(1248), fragments(576)
    reassembly = Reassembly()
    add(reassembly, large[0])
    with pytest.raises(BadIcv):
        add(reassembly, small[1][:-1] + bytes((small[1][-1] ^ 1,)))
    assert [add(reassembly, datagram) for datagram in large[1:]][-1] == WHOLE


def test_fragments_are_forgotten_after_a_while() -> None:
    datagrams = fragments(1248)
    reassembly = Reassembly()
    add(reassembly, datagrams[0], now=0.0)
    assert [add(reassembly, datagram, now=REASSEMBLY_SECONDS) for datagram in datagrams[1:]][-1] is None
    assert add(reassembly, datagrams[0], now=REASSEMBLY_SECONDS) == WHOLE


@pytest.mark.parametrize("numbers", [(0, 0), (0, 5), (6, 5), (1, 0)])
def test_fragment_numbers_that_cannot_be_are_refused(numbers: tuple[int, int]) -> None:
    datagram = bytearray(fragments(576)[0])
    datagram[32:36] = numbers[0].to_bytes(2, "big") + numbers[1].to_bytes(2, "big")
    with pytest.raises(MalformedMessage, match="cannot be"):
        Message.parse(bytes(datagram))


def test_more_fragments_than_the_bound_are_refused_unopened() -> None:
    datagram = bytearray(fragments(576)[0])
    datagram[34:36] = (MAX_FRAGMENTS + 1).to_bytes(2, "big")
    with pytest.raises(MalformedMessage, match="at most 64 fragments, 65 announced"):
        add(Reassembly(), bytes(datagram))


def test_more_octets_than_the_bound_are_refused() -> None:
    body = bytes(MAX_REASSEMBLED // 2)
    halves = Message(HEADER, (Cert(CertEncoding.CRL, body), Cert(CertEncoding.CRL, body)))
    datagrams = fragments(33_000, halves)
    reassembly = Reassembly()
    assert [add(reassembly, datagram) for datagram in datagrams[:-1]] == [None] * (len(datagrams) - 1)
    with pytest.raises(MalformedMessage, match="at most 65535 octets"):
        add(reassembly, datagrams[-1])
    assert reassembly.octets <= MAX_REASSEMBLED


def test_a_message_of_too_many_fragments_is_our_own_misuse() -> None:
    with pytest.raises(ValueError, match="more than 64"):
        fragments(100, Message(HEADER, (Cert(CertEncoding.CRL, bytes(40_000)),)))


def test_only_the_first_fragment_names_the_first_payload() -> None:
    sealed = [Message.parse(datagram).sealed for datagram in fragments(1248)]
    assert all(isinstance(part, EncryptedFragment) for part in sealed)
    assert [part.first for part in sealed if part] == [PayloadType.CERT, *[PayloadType.NONE] * (len(sealed) - 1)]
