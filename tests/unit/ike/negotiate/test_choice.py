import pytest
from msgspec.structs import replace

from openmoat.crypto.suites import AES_128_GCM_16, AES_256_GCM_16, PRF_HMAC_SHA2_256, X25519
from openmoat.ike.errors import NoCommonProposal
from openmoat.ike.negotiate.choice import (
    MAX_REMEMBERED_CHOICES,
    MAX_REMEMBERED_TRANSFORMS,
    choose_esp,
    choose_ike,
    look_for_esp,
    look_for_ike,
    offer_esp,
    offer_ike,
)
from openmoat.ike.wire.numbers import TransformType
from openmoat.ike.wire.proposals import Transform
from openmoat.model.connection import EspProposal, IkeProposal

IKE = IkeProposal(encryptions=(AES_128_GCM_16,), prfs=(PRF_HMAC_SHA2_256,), key_exchanges=(X25519,))
ESP = EspProposal(encryptions=(AES_128_GCM_16, AES_256_GCM_16), esn=(False,))
OTHER = EspProposal(encryptions=(AES_256_GCM_16,), esn=(False,))


def test_a_fleet_that_offers_the_same_with_other_spis_is_chosen_for_once() -> None:
    look_for_esp.cache_clear()
    for number in range(5):
        offered = offer_esp((ESP,), number.to_bytes(4, "big"), with_key_exchange=False)
        choice = choose_esp(offered, (ESP,), b"ours", with_key_exchange=False)
        assert choice.answer.spi == b"ours"
        assert choice.suite.encryption is AES_128_GCM_16
    assert (look_for_esp.cache_info().misses, look_for_esp.cache_info().hits) == (1, 4)
    # Another list of ours is another choice.
    assert choose_esp(offered, (OTHER,), b"ours", with_key_exchange=False).suite.encryption is AES_256_GCM_16


def test_choices_take_no_more_memory_than_their_bounds() -> None:
    look_for_ike.cache_clear()
    offered = offer_ike((IKE,))[0]
    for number in range(MAX_REMEMBERED_CHOICES + 3):
        strange = Transform(TransformType.PRF, 1000 + number)
        choose_ike((replace(offered, transforms=(*offered.transforms, strange)),), (IKE,))
    assert look_for_ike.cache_info().currsize == MAX_REMEMBERED_CHOICES
    strange = Transform(TransformType.PRF, 999)
    for count, gain in ((MAX_REMEMBERED_TRANSFORMS - 4, 1), (MAX_REMEMBERED_TRANSFORMS - 3, 0)):
        misses = look_for_ike.cache_info().misses
        assert choose_ike((replace(offered, transforms=(*offered.transforms, *[strange] * count)),), (IKE,)).suite
        assert look_for_ike.cache_info().misses == misses + gain


def test_what_meets_nothing_of_ours_is_refused_each_time() -> None:
    offered = offer_esp((OTHER,), b"spi1", with_key_exchange=False)
    for _ in range(2):
        with pytest.raises(NoCommonProposal, match="encryption: ours is aes128gcm16"):
            choose_esp(offered, (replace_encryptions(ESP),), b"ours", with_key_exchange=False)


def replace_encryptions(row: EspProposal) -> EspProposal:
    """The same with the first cipher alone."""
    return EspProposal(encryptions=row.encryptions[:1], esn=row.esn)
