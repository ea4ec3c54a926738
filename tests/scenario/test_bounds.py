"""Every bound that a peer can meet at an endpoint: as much as it allows is taken, one more is refused and counted."""

from collections.abc import Callable, Sequence

import pytest

from openmoat.crypto.limits import MAX_CERTIFICATES
from openmoat.crypto.numbers import KeMethod
from openmoat.crypto.suites import ECP_256, X25519
from openmoat.ike import window
from openmoat.ike.endpoint import MAX_DUE
from openmoat.ike.events import DownReason, IkeSaDown, NegotiationFailed
from openmoat.ike.exchange_runner import MAX_TEMPORARY_FAILURES, TEMPORARY_WAIT
from openmoat.ike.exchanges.create_child import MAX_METHOD_CHANGES
from openmoat.ike.reports import MAX_NOTED_PROPOSALS
from openmoat.ike.window import MAX_MESSAGE_ID
from openmoat.ike.wire.message import MAX_PAYLOADS, Header, Message, emit_chain
from openmoat.ike.wire.numbers import ExchangeType, NotifyType, PayloadType, ProtocolId
from openmoat.ike.wire.payloads import (
    MAX_CONFIG_ATTRIBUTES,
    MAX_DELETED_SPIS,
    MAX_NONCE,
    MAX_NOTIFY_DATA,
    MAX_TS_SELECTORS,
    MAX_VENDOR_ID,
    Delete,
    KeyExchange,
    Nonce,
    Notify,
    Payload,
    SecurityAssociation,
    TsInitiator,
    Unknown,
    VendorId,
)
from openmoat.ike.wire.proposals import MAX_PROPOSALS, Proposal, Transform
from openmoat.ike.wire.rules import MAX_DELETES, MAX_NOTIFIES, MAX_VENDOR_IDS
from openmoat.net import HostPort, Path
from openmoat.policy.selectors import MAX_SELECTORS, parse_selectors
from scenario.forge import UNKNOWN_PEER, answered, core, establish, init_request, offer_of, request
from scenario.link import Host, Link, child, connection, ike_proposal, two_hosts

STATUS = Notify(NotifyType.NO_NATS_ALLOWED)
SELECTOR = bytes.fromhex("07 00 0010 0000 ffff 0a010000 0a01ffff")


def notifies(number: int) -> list[Payload]:
    return [STATUS] * number


def body(kind: PayloadType, head: bytes, unit: bytes, number: int) -> list[Payload]:
    return [Unknown(kind, False, head + unit * number)]


INFORMATIONAL: dict[str, tuple[int, Callable[[int], list[Payload]]]] = {
    "notifies": (MAX_NOTIFIES, notifies),
    "vendor ids": (MAX_VENDOR_IDS, lambda number: [VendorId(b"")] * number),
    "deletes": (MAX_DELETES, lambda number: [Delete(ProtocolId.ESP)] * number),
    "deleted SPIs": (
        MAX_DELETED_SPIS,
        lambda number: body(PayloadType.DELETE, b"\3\4" + number.to_bytes(2, "big"), b"SPIs", number),
    ),
    "notify data": (MAX_NOTIFY_DATA, lambda number: body(PayloadType.NOTIFY, b"\0\0\xa0\0", b"d", number)),
    "vendor id": (MAX_VENDOR_ID, lambda number: body(PayloadType.VENDOR_ID, b"", b"v", number)),
    "attributes": (MAX_CONFIG_ATTRIBUTES, lambda number: body(PayloadType.CP, b"\1\0\0\0", b"\0\1\0\0", number)),
}


def malformed(host: Host) -> int:
    return host.endpoint.counts().get("malformed", 0)


@pytest.mark.parametrize("name", INFORMATIONAL)
def test_a_request_is_answered_up_to_a_bound_and_counted_as_malformed_beyond(name: str) -> None:
    link = Link()
    home, portal = establish(link)
    sa, path = core(home), portal.ike().path
    bound, make = INFORMATIONAL[name]
    before = malformed(portal)
    for number, is_too_much in ((bound, False), (bound + 1, True)):
        (reply,) = answered(portal, request(sa, ExchangeType.INFORMATIONAL, *make(number)), path)
        assert malformed(portal) == before + is_too_much
        error = sa.open_reply(reply).error()
        assert (error is not None and error.type is NotifyType.INVALID_SYNTAX) is is_too_much


def test_a_request_with_more_payloads_than_the_bound_is_counted_as_malformed() -> None:
    link = Link()
    home, portal = establish(link)
    sa, path = core(home), portal.ike().path
    full: tuple[Payload, ...] = (*[STATUS] * MAX_NOTIFIES, *[VendorId(b"")] * (MAX_PAYLOADS - MAX_NOTIFIES))
    first, chain = emit_chain(full)
    # What we would not write ourselves: one payload more behind the last, whose header names it.
    longer = chain[:-4] + bytes((PayloadType.DELETE,)) + chain[-3:] + b"\0\0\0\x08\3\4\0\0"
    for octets, is_too_much in ((chain, False), (longer, True)):
        header = Header(sa.initiator_spi, sa.responder_spi, ExchangeType.INFORMATIONAL, True, False, sa.next_id)
        sa.next_id += 1
        size = 4 + sa.outgoing.sealed_size(len(octets))
        head = header.emit(PayloadType.SK, 28 + size) + bytes((first, 0)) + size.to_bytes(2, "big")
        assert answered(portal, head + sa.outgoing.seal(head, octets, sa.next_iv()), path)
        assert malformed(portal) == is_too_much


def child_offer(home: Host, kind: PayloadType, replacement: Payload) -> list[Payload]:
    return [replacement if payload.TYPE is kind else payload for payload in offer_of(home)]


CHILD = {
    "nonce": (MAX_NONCE, PayloadType.NONCE, b"", b"n"),
    "selectors": (MAX_TS_SELECTORS, PayloadType.TS_I, None, SELECTOR),
}


@pytest.mark.parametrize("name", CHILD)
def test_a_child_is_made_up_to_a_bound_and_counted_as_malformed_beyond(name: str) -> None:
    link = Link()
    home, portal = establish(link)
    sa, path = core(home), portal.ike().path
    bound, kind, head, unit = CHILD[name]
    before = malformed(portal)
    for number, is_too_much in ((bound, False), (bound + 1, True)):
        start = bytes((number, 0, 0, 0)) if head is None else head
        offer = child_offer(home, kind, Unknown(kind, False, start + unit * number))
        answered(portal, request(sa, ExchangeType.CREATE_CHILD_SA, *offer), path)
        assert malformed(portal) == before + is_too_much
        assert len(portal.sas) == (0 if is_too_much else 2)  # INVALID_SYNTAX ends the IKE SA (RFC 7296 2.21.3)


def test_a_first_message_with_more_proposals_than_the_bound_is_counted_as_malformed() -> None:
    for number, name in ((MAX_PROPOSALS, "init_refused"), (MAX_PROPOSALS + 1, "malformed")):
        portal = waiting_portal()
        offered = SecurityAssociation(tuple(Proposal(n + 1, ProtocolId.IKE, b"", ()) for n in range(number)))
        answered(portal, first_message(offered), Path(HostPort(portal.address, 500), UNKNOWN_PEER))
        assert portal.endpoint.counts() == {name: 1}


def test_certificates_in_ike_auth_have_a_bound() -> None:
    for number, is_too_much in ((MAX_CERTIFICATES, False), (MAX_CERTIFICATES + 1, True)):
        link = Link()
        home, portal = two_hosts(link, retry=False)
        for _ in range(2):
            link.deliver()
        sa, genuine = core(home), link.flights.pop()
        message = sa.open(genuine.octets)
        certificates = [Unknown(PayloadType.CERT, False, b"\4x")] * number
        octets = sa.seal(Message(message.header, (*message.payloads, *certificates)))
        answered(portal, octets, genuine.path)
        assert malformed(portal) == is_too_much
        assert bool(portal.ike_sas()) is not is_too_much


def waiting_portal() -> Host:
    portal = Link().host("portal", "198.51.100.1")
    portal.load(connection("portal.example", "home.example", None))
    return portal


def first_message(offered: SecurityAssociation) -> bytes:
    """An IKE_SA_INIT request of a stranger, with another offer."""
    message = Message.parse(init_request(1))
    changed = [offered if isinstance(payload, SecurityAssociation) else payload for payload in message.payloads]
    return Message(message.header, tuple(changed)).emit()


def offer_of_size(octets: int) -> SecurityAssociation:
    """Transforms that nobody knows, and unknown attributes that make up what is missing."""
    strange, longer = Transform(4, 999), Transform(4, 999, None, b"\0\x63\0\1x")  # type: ignore[arg-type]
    extra = next(number for number in range(8) if (octets - 8 - 13 * number) % 8 == 0)
    rows = (strange,) * ((octets - 8 - 13 * extra) // 8) + (longer,) * extra
    offered = SecurityAssociation((Proposal(1, ProtocolId.IKE, b"", rows),))
    assert len(offered.emit()) == octets
    return offered


def test_a_refused_offer_is_noted_up_to_a_size_and_counted_beyond() -> None:
    for octets, is_too_much in ((MAX_NOTED_PROPOSALS, False), (MAX_NOTED_PROPOSALS + 1, True)):
        portal = waiting_portal()
        offered = offer_of_size(octets)
        answered(portal, first_message(offered), Path(HostPort(portal.address, 500), UNKNOWN_PEER))
        assert portal.told(NegotiationFailed)[0].proposals == (b"" if is_too_much else offered.emit())
        assert portal.endpoint.counts().get("noted_proposals_limit", 0) == is_too_much


# A peer that answers our requests as it likes.


def answer(portal: Host, home: Host, *said: Payload) -> None:
    """A response of the portal's keys to the request that the home has sent last."""
    sa, asked = core(portal), Header.parse(home.transmits[-1].octets)
    spis = asked.initiator_spi, asked.responder_spi
    header = Header(*spis, asked.exchange, not asked.is_initiator, True, asked.message_id)
    octets = sa.seal(Message(header, said))
    answered(home, octets, home.ike().path)


def wants(method: KeMethod) -> Notify:
    return Notify(NotifyType.INVALID_KE_PAYLOAD, int(method).to_bytes(2, "big"))


@pytest.mark.parametrize("verb", ["rekey_child", "rekey_ike"])
def test_the_key_exchange_method_of_a_request_is_changed_so_often_and_then_it_fails(verb: str) -> None:
    link = Link()
    home, portal = link.host("home", "192.0.2.1"), link.host("portal", "198.51.100.1")
    methods = (X25519, ECP_256)
    there = child(local="10.2.0.0/16", remote="10.1.0.0/16", methods=methods)
    both = (ike_proposal(*methods),)
    portal.load(connection("portal.example", "home.example", None, there, proposals=both))
    home.load(connection("home.example", "portal.example", "198.51.100.1", child(methods=methods), proposals=both))
    link.settle()
    link.drop = lambda octets: True
    home.do(verb, home.child().local_spi if verb == "rekey_child" else home.ike().ike)
    for number in range(MAX_METHOD_CHANGES):
        sent = len(home.transmits)
        answer(portal, home, wants(methods[(number + 1) % 2].id))
        assert len(home.transmits) == sent + 1
    assert home.told(NegotiationFailed) == []
    sent = len(home.transmits)
    answer(portal, home, wants(methods[(MAX_METHOD_CHANGES + 1) % 2].id))
    assert home.told(NegotiationFailed)[0].notify == NotifyType.INVALID_KE_PAYLOAD
    assert len(home.transmits) == sent


def test_timers_that_are_due_at_once_fire_in_portions_until_none_is_left() -> None:
    link = Link()
    portal = link.host("portal", "198.51.100.1")
    portal.load(connection("portal.example", "home.example", None))
    for number in range(MAX_DUE + 3):
        answered(portal, init_request(number), Path(HostPort(portal.address, 500), UNKNOWN_PEER))
    late = link.now + portal.config.half_open_life + 1
    portal.call("handle_timeout", now=late)
    assert portal.endpoint.counts()["half_open_expired"] == MAX_DUE
    assert (portal.endpoint.poll_timeout() or late) < late
    portal.call("handle_timeout", now=late)
    assert portal.endpoint.counts()["half_open_expired"] == MAX_DUE + 3
    assert portal.endpoint.poll_timeout() is None


@pytest.mark.parametrize("verb", ["rekey_child", "rekey_ike"])
def test_temporary_failures_are_borne_so_often_and_then_the_ike_sa_ends(verb: str) -> None:
    link = Link()
    home, portal = establish(link)
    link.drop = lambda octets: True
    home.do(verb, home.child().local_spi if verb == "rekey_child" else home.ike().ike)
    for _ in range(MAX_TEMPORARY_FAILURES):
        answer(portal, home, Notify(NotifyType.TEMPORARY_FAILURE))
        sent = len(home.transmits)
        link.now += 2 * TEMPORARY_WAIT
        home.do("handle_timeout")
        assert len(home.transmits) == sent + 1
        assert Header.parse(home.transmits[-1].octets).exchange is ExchangeType.CREATE_CHILD_SA
    assert home.ike_sas()
    answer(portal, home, Notify(NotifyType.TEMPORARY_FAILURE))
    assert home.ike_sas() == []
    assert home.told(IkeSaDown)[0].reason is DownReason.PEER_MISBEHAVED


def test_a_senseless_response_to_our_rekey_of_the_ike_sa_ends_it() -> None:
    link = Link()
    home, portal = establish(link)
    link.drop = lambda octets: True
    home.do("rekey_ike", home.ike().ike)
    answer(portal, home, Nonce(bytes(32)))
    assert home.ike_sas() == []
    assert home.told(IkeSaDown)[0].reason is DownReason.PEER_MISBEHAVED
    assert malformed(home) == 1


def test_an_ike_sa_whose_message_ids_are_used_up_ends_and_another_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    link = Link()
    home, _ = establish(link)
    assert MAX_MESSAGE_ID == 2**32 - 1
    monkeypatch.setattr(window, "MAX_MESSAGE_ID", 2)
    home.do("probe", home.ike().ike)
    assert Header.parse(home.transmits[-1].octets).message_id == 2
    link.settle()
    assert home.told(IkeSaDown) == []
    home.do("probe", home.ike().ike)
    assert home.told(IkeSaDown)[0].reason is DownReason.EXPIRED
    monkeypatch.undo()
    link.run(60)
    assert len(home.ike_sas()) == len(home.sas) == 1


# Counters that no bound makes.


def test_a_protected_request_before_there_are_keys_is_counted_unless_it_is_ike_auth() -> None:
    link = Link()
    home, portal = two_hosts(link)
    for _ in range(2):
        link.deliver()
    genuine = link.flights.pop()
    sa = core(home)
    sa.next_id = 1
    early = request(sa, ExchangeType.INFORMATIONAL)
    assert answered(portal, early, genuine.path) == []
    assert portal.endpoint.counts()["unexpected_request"] == 1
    assert answered(portal, genuine.octets, genuine.path)


@pytest.mark.parametrize("exchange", [ExchangeType.IKE_AUTH, ExchangeType.IKE_FOLLOWUP_KE])
def test_an_exchange_that_has_no_place_on_an_established_sa_is_counted(exchange: ExchangeType) -> None:
    link = Link()
    home, portal = establish(link)
    assert answered(portal, request(core(home), exchange, *said(exchange)), portal.ike().path) == []
    assert portal.endpoint.counts()["unexpected_request"] == 1
    assert len(portal.ike_sas()) == 1


def said(exchange: ExchangeType) -> Sequence[Payload]:
    return () if exchange is ExchangeType.IKE_AUTH else (KeyExchange(KeMethod.X25519, bytes(32)),)


def test_an_answer_that_comes_twice_is_counted_and_changes_nothing() -> None:
    link = Link()
    home, portal = two_hosts(link)
    portal.holds = lambda question: type(question).__name__ == "AskKeyPair"
    link.deliver()
    reply = portal.reply(portal.held[0])
    portal.call("handle_answer", reply, now=link.now)
    sent = len(portal.transmits)
    portal.call("handle_answer", reply, now=link.now)
    assert portal.endpoint.counts()["late_answer"] == 1
    assert len(portal.transmits) == sent
    portal.holds = lambda question: False
    link.settle()
    assert home.ike_sas()


def test_selectors_beyond_the_bound_are_left_out_and_that_is_told() -> None:
    link = Link()
    home, portal = establish(link)
    sa, path = core(home), portal.ike().path
    offered, nonce, _, *rest = offer_of(home)
    many = parse_selectors([f"10.1.{number}.0/24" for number in range(MAX_SELECTORS + 6)])
    answered(portal, request(sa, ExchangeType.CREATE_CHILD_SA, offered, nonce, TsInitiator(many), *rest), path)
    made = next(held.child for held in portal.sas.values() if held.child.remote_spi == 0xCAFE0001)
    assert made.remote == many[:MAX_SELECTORS]
    assert made.remarks == ("TSi: 70 selectors came, those after the first 64 are left out",)
