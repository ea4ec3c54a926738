from collections.abc import Callable

import pytest
from msgspec.structs import replace

from openmoat.crypto.numbers import Encr, KeMethod
from openmoat.crypto.suites import (
    AES_128_CBC,
    AES_128_GCM_16,
    AES_256_GCM_16,
    CHACHA20_POLY1305,
    ECP_256,
    HMAC_SHA2_256_128,
    MODP_2048,
    PRF_HMAC_SHA2_256,
    X25519,
)
from openmoat.ike.errors import MalformedMessage, NoCommonProposal, PeerMisbehaved
from openmoat.ike.negotiate.choice import accept_esp, accept_ike, choose_esp, choose_ike, misses, offer_esp, offer_ike
from openmoat.ike.wire.numbers import ProtocolId, TransformType
from openmoat.ike.wire.proposals import (
    MAX_ATTRIBUTES,
    MAX_PROPOSALS,
    MAX_REMEMBERED,
    MAX_REMEMBERED_LISTS,
    MAX_TRANSFORMS,
    Proposal,
    Transform,
    emit_proposals,
    emit_transforms,
    parse_proposals,
    parse_transforms_again,
)
from openmoat.ike.wire.reader import Reader
from openmoat.model.connection import EspProposal, IkeProposal

GCM = IkeProposal(
    encryptions=(AES_256_GCM_16, CHACHA20_POLY1305), prfs=(PRF_HMAC_SHA2_256,), key_exchanges=(X25519, ECP_256)
)
CBC = IkeProposal(
    encryptions=(AES_128_CBC,),
    integrities=(HMAC_SHA2_256_128,),
    prfs=(PRF_HMAC_SHA2_256,),
    key_exchanges=(MODP_2048,),
)
ESP = EspProposal(encryptions=(AES_128_GCM_16,), esn=(True, False))
PFS = EspProposal(encryptions=(AES_128_GCM_16,), key_exchanges=(X25519,))
T = TransformType


def parse(body: bytes) -> tuple[Proposal, ...]:
    return parse_proposals(Reader(body, "SA"))


def test_an_ike_offer_comes_back_and_is_chosen_in_our_order() -> None:
    offered = parse(emit_proposals(offer_ike((CBC, GCM))))
    choice = choose_ike(offered, (GCM, CBC))
    assert choice.suite.name == "aes256gcm16-prfsha256-x25519"
    assert choice.answer.number == 2


def test_the_method_of_the_ke_payload_is_preferred_where_we_accept_it() -> None:
    assert choose_ike(offer_ike((GCM,)), (GCM,), method=KeMethod.ECP_256).suite.key_exchange is ECP_256
    assert choose_ike(offer_ike((GCM,)), (GCM,), method=KeMethod.MODP_2048).suite.key_exchange is X25519


def test_the_initiator_takes_what_the_responder_chose() -> None:
    offered = offer_ike((GCM, CBC))
    choice = choose_ike(offered, (CBC,))
    assert accept_ike((choice.answer,), offered) == choice


def test_integrity_is_never_chosen_beside_an_aead() -> None:
    mixed = Proposal(1, ProtocolId.IKE, b"", (*offer_ike((GCM,))[0].transforms, Transform(T.INTEG, 12)))
    with pytest.raises(NoCommonProposal, match="integrity: ours is none; received sha256"):
        choose_ike((mixed,), (GCM,))
    chosen = choose_ike(offer_ike((GCM,)), (GCM,)).answer
    beside = Proposal(1, ProtocolId.IKE, b"", (*chosen.transforms, Transform(T.INTEG, 12)))
    with pytest.raises(PeerMisbehaved, match="sha256 was not offered"):
        accept_ike((beside,), offer_ike((GCM,)))


def test_integrity_none_offered_with_an_aead_is_answered() -> None:
    offered = Proposal(1, ProtocolId.IKE, b"", (*offer_ike((GCM,))[0].transforms, Transform(T.INTEG, 0)))
    assert Transform(T.INTEG, 0) in choose_ike((offered,), (GCM,)).answer.transforms


def test_esn_is_chosen_by_our_preference() -> None:
    assert choose_esp(offer_esp((ESP,), b"spi1", False), (ESP,), b"spi2", False).suite.esn
    without = EspProposal(encryptions=(AES_128_GCM_16,), esn=(False,))
    assert not choose_esp(offer_esp((ESP,), b"spi1", False), (without,), b"spi2", False).suite.esn


def test_a_key_exchange_offered_in_ike_auth_is_passed_over() -> None:
    offered = offer_esp((PFS,), b"spi1", with_key_exchange=True)
    choice = choose_esp(offered, (PFS,), b"spi2", with_key_exchange=False)
    assert choice.key_exchange is None
    assert all(transform.type is not T.KE for transform in choice.answer.transforms)


def test_forward_secrecy_must_be_wanted_by_both() -> None:
    with pytest.raises(NoCommonProposal, match="key exchange: ours is x25519; received none"):
        choose_esp(offer_esp((ESP,), b"spi1", True), (PFS,), b"spi2", True)
    with pytest.raises(NoCommonProposal, match="key exchange: ours is none; received x25519"):
        choose_esp(offer_esp((PFS,), b"spi1", True), (ESP,), b"spi2", True)


def test_a_responder_cannot_drop_the_key_exchange_we_offered() -> None:
    offered = offer_esp((PFS,), b"spi1", True)
    kept = tuple(transform for transform in offered[0].transforms if transform.type is not T.KE)
    one_of_each = tuple({transform.type: transform for transform in kept}.values())
    with pytest.raises(PeerMisbehaved, match="KE left unanswered"):
        accept_esp((Proposal(1, ProtocolId.ESP, b"spi2", one_of_each),), offered)
    none = (*one_of_each, Transform(T.KE, 0))
    with pytest.raises(PeerMisbehaved, match="none was not offered"):
        accept_esp((Proposal(1, ProtocolId.ESP, b"spi2", none),), offered)


@pytest.mark.parametrize("key_bits", [None, 0, 128, 65535])
def test_a_key_length_we_did_not_ask_for_does_not_match(key_bits: int | None) -> None:
    transforms = (Transform(T.ENCR, Encr.AES_GCM_16, key_bits), *offer_ike((GCM,))[0].transforms[2:])
    with pytest.raises(NoCommonProposal, match="encryption: ours is aes256gcm16"):
        choose_ike((Proposal(1, ProtocolId.IKE, b"", transforms),), (GCM,))


def test_a_transform_with_an_unknown_attribute_is_passed_over_and_its_siblings_are_not() -> None:
    good = offer_ike((GCM,))[0]
    strange = Transform(T.ENCR, Encr.AES_GCM_16, 256, foreign=b"\x80\x63\0\1")
    received = parse(emit_proposals((Proposal(1, ProtocolId.IKE, b"", (strange, *good.transforms[1:])),)))
    assert choose_ike(received, (GCM,)).suite.encryption is CHACHA20_POLY1305


def test_a_second_key_length_makes_a_transform_unacceptable() -> None:
    body = emit_proposals((Proposal(1, ProtocolId.IKE, b"", (Transform(T.ENCR, 20, 256, b"\x80\x0e\0\x80"),)),))
    assert parse(body)[0].transforms[0].foreign == b"\x80\x0e\0\x80"


def test_an_unknown_transform_type_makes_a_proposal_unacceptable_and_not_the_next() -> None:
    good = offer_ike((GCM,))[0]
    strange = Proposal(1, ProtocolId.IKE, b"", (*good.transforms, Transform(TransformType(77), 1)))
    fine = Proposal(2, ProtocolId.IKE, b"", good.transforms)
    assert choose_ike((strange, fine), (GCM,)).answer.number == 2


def test_an_additional_key_exchange_is_accepted_only_where_none_is_offered_too() -> None:
    good = offer_ike((GCM,))[0].transforms
    must = Proposal(1, ProtocolId.IKE, b"", (*good, Transform(T.ADDKE1, 36)))
    may = Proposal(1, ProtocolId.IKE, b"", (*good, Transform(T.ADDKE1, 36), Transform(T.ADDKE1, 0)))
    with pytest.raises(NoCommonProposal):
        choose_ike((must,), (GCM,))
    assert Transform(T.ADDKE1, 0) in choose_ike((may,), (GCM,)).answer.transforms


def test_a_proposal_without_transforms_is_not_chosen() -> None:
    received = parse(emit_proposals((Proposal(1, ProtocolId.IKE, b"", ()),)))
    with pytest.raises(NoCommonProposal):
        choose_ike(received, (GCM,))


def test_the_nearest_miss_comes_first_and_names_the_field() -> None:
    received = (
        Proposal(1, ProtocolId.IKE, b"", (Transform(T.ENCR, 3),)),
        Proposal(2, ProtocolId.IKE, b"", (*offer_ike((GCM,))[0].transforms[:3], Transform(T.KE, 14))),
    )
    nearest = misses(received, (GCM,))[0]
    assert str(nearest) == "proposal 2: key exchange: ours is x25519, ecp256; received modp2048"


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("", "last proposal needs 1 octets"),
        ("00 00 0003", "proposal length: at least 4, not 3"),
        ("00 00 0008 01 01 03 00 000000", "proposal needs|SPI of IKE|nothing more"),
        ("00 00 0008 01 03 08 00", "SPI of ESP"),
        ("00 00 0008 01 01 00 01", "last transform needs 1 octets"),
        ("00 00 0010 01 01 00 01 03 00 0008 01 00 0014", "last-substructure is 3"),
        ("00 00 0010 01 01 00 01 00 00 0003 01 00 0014", "transform length: at least 4"),
        ("01 00 0008 01 01 00 00", "0 or 2, not 1"),
        ("02 00 0008 01 01 00 00 00 00 0008 03 01 00 00", "proposal 3 cannot follow proposal 1"),
    ],
)
def test_substructures_that_do_not_agree_are_refused(body: str, fault: str) -> None:
    with pytest.raises(MalformedMessage, match=fault):
        parse(bytes.fromhex(body))


def test_more_proposals_than_the_bound_are_refused() -> None:
    body = emit_proposals(tuple(Proposal(n, ProtocolId.IKE, b"", ()) for n in range(1, MAX_PROPOSALS + 2)))
    with pytest.raises(MalformedMessage, match="at most 64 proposals"):
        parse(body)


def test_proposals_for_another_protocol_are_passed_over_and_named() -> None:
    esp = offer_esp((ESP,), b"spi1", False)
    with pytest.raises(NoCommonProposal, match="protocol: ours is IKE; received ESP"):
        choose_ike(esp, (GCM,))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda answer: (answer, answer), "exactly one proposal, not 2"),
        (lambda answer: (), "exactly one proposal, not 0"),
        (lambda answer: (replace(answer, number=9),), r"proposal 9 \(IKE\) was not offered"),
        (lambda answer: (replace(answer, protocol=ProtocolId.ESP),), r"\(ESP\) was not offered"),
        (lambda answer: (replace(answer, transforms=answer.transforms * 2),), "one transform of each type"),
        (lambda answer: (replace(answer, transforms=answer.transforms[1:]),), "ENCR left unanswered"),
    ],
)
def test_a_response_that_is_no_choice_among_ours_is_refused(
    change: Callable[[Proposal], tuple[Proposal, ...]], fault: str
) -> None:
    offered = offer_ike((GCM,))
    answer = choose_ike(offered, (GCM,)).answer
    with pytest.raises(PeerMisbehaved, match=fault):
        accept_ike(change(answer), offered)


def test_algorithms_without_a_row_are_named_by_their_registry() -> None:
    strange = Proposal(1, ProtocolId.IKE, b"", (Transform(T.ENCR, 3), Transform(T.ENCR, 999, 64, b"\x80\x63\0\1")))
    theirs = misses((strange,), (GCM,))[0].theirs
    assert theirs == ("DES3", "UNKNOWN_999 with 64 bits with unknown attributes")


def test_a_transform_with_more_attributes_than_the_bound_is_refused() -> None:
    head, attribute = bytes((T.ENCR, 0, 0, 20)), b"\x80\x63\0\1"
    full = Transform.parse(Reader(head + attribute * MAX_ATTRIBUTES, "SA"))
    assert full.foreign == attribute * MAX_ATTRIBUTES
    with pytest.raises(MalformedMessage, match=f"at most {MAX_ATTRIBUTES} attributes; there are more"):
        Transform.parse(Reader(head + attribute * (MAX_ATTRIBUTES + 1), "SA"))


def test_a_proposal_holds_as_many_transforms_as_its_octet_counts() -> None:
    full = Proposal(1, ProtocolId.IKE, b"", (Transform(T.PRF, 5),) * MAX_TRANSFORMS)
    assert parse(emit_proposals((full,))) == (full,)
    with pytest.raises(ValueError, match=f"at most {MAX_TRANSFORMS} transforms, not {MAX_TRANSFORMS + 1}"):
        replace(full, transforms=(*full.transforms, Transform(T.PRF, 5))).emit()


def test_lists_of_transforms_are_remembered_up_to_a_size() -> None:
    for octets, gain in ((MAX_REMEMBERED, 1), (MAX_REMEMBERED + 1, 0)):
        rows = [Transform(T.PRF, 5)] * (octets // 8 - 2) + [Transform(T.PRF, 5, None, tlv(octets % 8 + 8))]
        body = emit_proposals((Proposal(1, ProtocolId.IKE, b"", tuple(rows)),))
        assert len(body) == 8 + octets
        before = parse_transforms_again.cache_info()
        first, again = parse(body), parse(body)
        assert first == again
        assert parse_transforms_again.cache_info().hits == before.hits + gain


def tlv(octets: int) -> bytes:
    """An attribute we do not know, of so many octets with its head."""
    return b"\0\x63" + (octets - 4).to_bytes(2, "big") + bytes(octets - 4)


def test_so_many_lists_of_transforms_are_remembered_and_the_oldest_is_forgotten() -> None:
    for remembered in (parse_transforms_again, emit_transforms):
        remembered.cache_clear()
    for number in range(MAX_REMEMBERED_LISTS + 1):
        parse(emit_proposals((Proposal(1, ProtocolId.IKE, b"", (Transform(T.PRF, number),)),)))
        for remembered in (parse_transforms_again, emit_transforms):
            assert remembered.cache_info().currsize == min(number + 1, MAX_REMEMBERED_LISTS) <= 256
