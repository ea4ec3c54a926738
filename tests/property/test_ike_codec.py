"""Codecs of IKE messages: any octets parse or raise ProtocolError, and parse(emit(x)) == x."""

import ipaddress

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from openmoat.crypto.identities import Identity
from openmoat.crypto.numbers import AuthMethod, IdType, KeMethod
from openmoat.ike.errors import ProtocolError
from openmoat.ike.wire.message import Header, Message
from openmoat.ike.wire.numbers import (
    CertEncoding,
    ConfigKind,
    ConfigType,
    ExchangeType,
    NotifyType,
    PayloadType,
    ProtocolId,
    TransformType,
)
from openmoat.ike.wire.payloads import (
    Auth,
    Cert,
    CertRequest,
    ConfigAttribute,
    Configuration,
    Delete,
    Eap,
    IdInitiator,
    IdResponder,
    KeyExchange,
    Nonce,
    Notify,
    Payload,
    SecurityAssociation,
    TsInitiator,
    TsResponder,
    Unknown,
    VendorId,
    parse_payload,
)
from openmoat.ike.wire.proposals import Proposal, Transform
from openmoat.policy.selectors import TrafficSelector
from unit.ike.wire.checked import check_first_phase

octets = st.binary(max_size=200)
u8, u16, u32, u64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))


@st.composite
def transforms(draw: st.DrawFn) -> Transform:
    key_bits = draw(st.none() | u16)
    foreign = b"".join(
        draw(
            st.lists(
                st.builds(
                    lambda kind, value: (0x8000 | kind).to_bytes(2, "big") + value,
                    st.integers(15, 99),
                    st.binary(min_size=2, max_size=2),
                ),
                max_size=2,
            )
        )
    )
    return Transform(TransformType(draw(u8)), draw(u16), key_bits, foreign)


@st.composite
def security_associations(draw: st.DrawFn) -> SecurityAssociation:
    first = draw(st.integers(0, 200))
    proposals = []
    for index in range(draw(st.integers(1, 4))):
        protocol = draw(st.sampled_from(ProtocolId) | st.just(ProtocolId(9)))
        size = {ProtocolId.IKE: draw(st.sampled_from((0, 8))), ProtocolId.AH: 4, ProtocolId.ESP: 4}.get(protocol, 3)
        spi = draw(st.binary(min_size=size, max_size=size))
        proposals.append(Proposal(first + index, protocol, spi, tuple(draw(st.lists(transforms(), max_size=5)))))
    return SecurityAssociation(tuple(proposals))


@st.composite
def selectors(draw: st.DrawFn) -> TrafficSelector:
    family = draw(st.sampled_from(("0.0.0.0/0", "::/0")))
    world = ipaddress.ip_network(family)
    first, last = sorted((draw(st.integers(0, world.num_addresses - 1)), draw(st.integers(0, world.num_addresses - 1))))
    ports = draw(st.just((65535, 0)) | st.tuples(u16, u16).map(lambda pair: (min(pair), max(pair))))
    return TrafficSelector.between(world[first], world[last], draw(u8), *ports)


identities = st.one_of(
    st.builds(Identity, st.sampled_from((IdType.KEY_ID, IdType(77))), st.binary(min_size=1, max_size=80)),
    st.builds(Identity, st.just(IdType.IPV4_ADDR), st.binary(min_size=4, max_size=4)),
    st.sampled_from(("gate.example", "me@gate.example", "CN=gate,O=Example")).map(Identity.parse),
)
reserved = st.binary(min_size=3, max_size=3)
selector_lists = st.lists(selectors(), min_size=1, max_size=5).map(tuple)
attributes = st.builds(ConfigAttribute, st.builds(ConfigType, st.integers(0, 0x7FFF)), octets)
payloads: st.SearchStrategy[Payload] = st.one_of(
    security_associations(),
    st.builds(KeyExchange, st.builds(KeMethod, u16), octets),
    st.builds(IdInitiator, identities, reserved),
    st.builds(IdResponder, identities, reserved),
    st.builds(Cert, st.builds(CertEncoding, u8), octets),
    st.builds(CertRequest, st.builds(CertEncoding, u8), octets),
    st.builds(Auth, st.builds(AuthMethod, u8), octets),
    st.builds(Nonce, st.binary(min_size=16, max_size=256)),
    st.builds(Notify, st.builds(NotifyType, u16), octets, st.builds(ProtocolId, u8), st.binary(max_size=255)),
    st.builds(Delete, st.just(ProtocolId.ESP), st.lists(u32, max_size=9).map(tuple)),
    st.just(Delete.ike()),
    st.builds(VendorId, octets),
    st.builds(TsInitiator, selector_lists),
    st.builds(TsResponder, selector_lists),
    st.builds(Configuration, st.builds(ConfigKind, u8), st.lists(attributes, max_size=4).map(tuple)),
    st.builds(Eap, octets),
    st.builds(Unknown, st.sampled_from([49, 99, 200, 255]).map(PayloadType), st.booleans(), octets),
)
headers = st.builds(Header, u64.filter(bool), u64, st.builds(ExchangeType, u8), st.booleans(), st.booleans(), u32)
messages = st.builds(Message, headers, st.lists(payloads, max_size=10).map(tuple))


@given(messages)
def test_every_message_comes_back_as_it_was_sent(message: Message) -> None:
    assert Message.parse(message.emit()) == message


@given(st.integers(33, 60), st.booleans(), octets)
def test_any_octets_in_any_payload_parse_or_raise_a_protocol_error(kind: int, critical: bool, body: bytes) -> None:
    try:
        payload = parse_payload(kind, critical, body, 0, len(body))
    except ProtocolError:
        return
    again = parse_payload(kind, critical, payload.emit(), 0, len(payload.emit())) if readable(payload) else payload
    assert again == payload


def readable(payload: Payload) -> bool:
    """Selectors of unknown kinds are passed over, and a TS payload without any cannot be sent."""
    return not (isinstance(payload, TsInitiator | TsResponder) and not payload.selectors)


@given(st.binary(max_size=300))
def test_any_datagram_parses_or_raises_a_protocol_error(datagram: bytes) -> None:
    try:
        Message.parse(datagram)
    except ProtocolError:
        return


@settings(max_examples=300)
@given(messages, st.data())
def test_a_changed_message_parses_and_is_checked_or_raises_a_protocol_error(
    message: Message, data: st.DataObject
) -> None:
    datagram = bytearray(message.emit())
    for _ in range(data.draw(st.integers(1, 4))):
        datagram[data.draw(st.integers(0, len(datagram) - 1))] = data.draw(st.integers(0, 255))
    try:
        check_first_phase(Message.parse(bytes(datagram)))
    except ProtocolError:
        return


@given(messages, st.booleans())
def test_what_passes_the_rules_passes_them_again_unchanged(message: Message, is_protected: bool) -> None:
    try:
        checked = check_first_phase(replace(message, is_protected=is_protected))
    except ProtocolError:
        return
    assert check_first_phase(checked) == checked
