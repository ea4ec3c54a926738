import pytest

from openmoat.crypto.protection import SkProtection
from openmoat.errors import Secret
from openmoat.ike.channel import Channel, Malformed, Unread
from openmoat.ike.config import Count, IkeConfig
from openmoat.ike.context import Context
from openmoat.ike.events import IkeSaKeys, Transmit
from openmoat.ike.natt import NatView
from openmoat.ike.wire.message import Header, Message
from openmoat.ike.wire.numbers import ExchangeType, NotifyType, PayloadType
from openmoat.ike.wire.payloads import Delete, Notify, Payload
from openmoat.net import HostPort, Path
from unit.ike.parts import HERE, KEYMAT, PATH, SUITE, THERE, make_channels, make_context

BACK = Path(THERE, HERE)


def sent(context: Context) -> list[bytes]:
    """What was sent since the last time."""
    octets = [output.octets for output in context.outputs if isinstance(output, Transmit)]
    context.outputs.clear()
    return octets


def receive(channel: Channel, octets: bytes, path: Path = BACK) -> object:
    return channel.receive(Header.parse(octets), octets, path)


def test_a_request_and_its_response_move_both_windows_once() -> None:
    context = make_context()
    ours, theirs = make_channels(context)
    ours.request(ExchangeType.INFORMATIONAL, [Delete.ike()])
    (request,) = sent(context)
    message = receive(theirs, request)
    assert isinstance(message, Message)
    assert message.payloads == (Delete.ike(),)
    assert receive(theirs, request) is None  # it is being worked on
    theirs.respond(ExchangeType.INFORMATIONAL, [])
    (response,) = sent(context)
    assert isinstance(receive(ours, response), Message)
    assert ours.window.next_id == theirs.window.expected_id == 1
    assert receive(ours, response) is None
    assert context.counts[Count.UNEXPECTED_RESPONSE] == 1


def test_a_repeated_request_gets_the_same_octets_only_if_it_is_authentic() -> None:
    context = make_context()
    ours, theirs = make_channels(context)
    ours.request(ExchangeType.INFORMATIONAL, [])
    (request,) = sent(context)
    receive(theirs, request)
    theirs.respond(ExchangeType.INFORMATIONAL, [])
    response = sent(context)
    assert receive(theirs, request) is None
    assert sent(context) == response
    forged = request[:-1] + bytes((request[-1] ^ 1,))
    assert receive(theirs, forged) is None
    assert sent(context) == []
    assert context.counts[Count.BAD_ICV] == 1


def test_nothing_changes_by_what_is_not_authentic() -> None:
    context = make_context()
    ours, theirs = make_channels(context)
    ours.request(ExchangeType.INFORMATIONAL, [])
    (request,) = sent(context)
    for place in range(28, len(request), 5):
        forged = bytearray(request)
        forged[place] ^= 0x40
        assert receive(theirs, bytes(forged)) is None
    assert theirs.window.expected_id == 0
    assert isinstance(receive(theirs, request), Message)


def test_a_message_with_our_own_role_is_dropped() -> None:
    context = make_context()
    ours, _ = make_channels(context)
    ours.request(ExchangeType.INFORMATIONAL, [])
    assert receive(ours, sent(context)[0]) is None
    assert context.counts[Count.WRONG_ROLE_FLAG] == 1


def test_what_an_authenticated_peer_writes_against_the_grammar_is_told_apart() -> None:
    context = make_context()
    _, theirs = make_channels(context)
    # A payload whose length reaches beyond the end, under a good ICV.
    sealer = SkProtection(SUITE.encryption, SUITE.integrity, KEYMAT.sk_ei, KEYMAT.sk_ai)
    chain = b"\0\0\0\x63"
    size = 4 + sealer.sealed_size(len(chain))
    header = Header(1, 2, ExchangeType.INFORMATIONAL, True, False, 0)
    head = header.emit(PayloadType.SK, 28 + size) + bytes((PayloadType.NOTIFY, 0)) + size.to_bytes(2, "big")
    octets = head + sealer.seal(head, chain, bytes(7) + b"\x09")
    assert isinstance(receive(theirs, octets), Malformed)


def test_before_there_are_keys_nothing_is_read_here() -> None:
    context = make_context()
    ours, _ = make_channels(context)
    ours.request(ExchangeType.INFORMATIONAL, [])
    early = Channel(context, 2, 1, BACK, is_initiator=False)
    assert isinstance(receive(early, sent(context)[0]), Unread)
    with pytest.raises(ValueError, match="before there are keys"):
        early.respond(ExchangeType.INFORMATIONAL, [])


def test_a_message_that_is_too_long_goes_in_fragments_and_comes_together() -> None:
    context = make_context()
    ours, theirs = make_channels(context, fragments=True)
    payloads: list[Payload] = [Notify(NotifyType.SIZE_PROBE, bytes(3000))]
    ours.request(ExchangeType.INFORMATIONAL, payloads)
    fragments = sent(context)
    assert len(fragments) == 3
    received = [receive(theirs, octets) for octets in (fragments[2], fragments[0], fragments[1])]
    assert received[:2] == [None, None]
    assert isinstance(received[2], Message)
    assert list(received[2].payloads) == payloads


def test_fragments_are_refused_where_they_were_not_agreed_on() -> None:
    context = make_context()
    ours, theirs = make_channels(context, fragments=True)
    theirs.has_fragments = False
    ours.request(ExchangeType.INFORMATIONAL, [Notify(NotifyType.SIZE_PROBE, bytes(3000))])
    assert [receive(theirs, octets) for octets in sent(context)] == [None] * 3
    assert context.counts[Count.FRAGMENT_REFUSED] == 3


def test_no_iv_is_used_twice() -> None:
    context = make_context()
    ours, theirs = make_channels(context)
    seen = set()
    for _ in range(20):
        ours.request(ExchangeType.INFORMATIONAL, [])
        (request,) = sent(context)
        seen.add(request[32:40])
        receive(theirs, request)
        theirs.respond(ExchangeType.INFORMATIONAL, [])
        receive(ours, sent(context)[0])
    assert len(seen) == 20


def test_a_request_that_takes_the_place_of_an_open_one_keeps_its_message_id() -> None:
    context = make_context()
    ours, theirs = make_channels(context)
    ours.request_whole(ExchangeType.INFORMATIONAL, [Notify(NotifyType.SIZE_PROBE, bytes(1000))], df=True)
    (padded,) = sent(context)
    assert ours.window.sent is not None
    ours.exchange_request(ours.window.sent, ())
    ours.transmit_request()
    (empty,) = sent(context)
    assert Header.parse(empty) == Header.parse(padded)
    assert len(empty) < len(padded)
    assert isinstance(receive(theirs, empty), Message)


def test_the_size_of_a_datagram_is_known_before_it_is_sent() -> None:
    context = make_context()
    ours, _ = make_channels(context)
    payloads: list[Payload] = [Notify(NotifyType.SIZE_PROBE, bytes(100))]
    told = ours.datagram_size(payloads)
    ours.request(ExchangeType.INFORMATIONAL, payloads)
    assert told == len(sent(context)[0]) + 20 + 8 + 4  # IPv4, UDP, non-ESP marker
    assert ours.payload_room(told) == 108


def test_a_nat_moves_the_channel_to_port_4500_and_esp_into_udp() -> None:
    context = make_context()
    first = Path(HostPort(HERE.address, 500), HostPort(THERE.address, 500))
    channel = Channel(context, 1, 0, first, is_initiator=True)
    assert channel.esp_path.local.port == 0
    channel.request_init(b"init", again=False)
    channel.accept_init(9, NatView(is_supported=True, own=True), has_fragments=True)
    assert channel.path == PATH
    assert channel.uses_udp
    assert (channel.initiator_spi, channel.responder_spi) == (1, 9)


def test_a_sibling_has_the_same_path_and_abilities_and_no_keys() -> None:
    context = make_context()
    ours, _ = make_channels(context, fragments=True)
    new = ours.sibling(11, 12, is_initiator=False)
    assert (new.path, new.has_fragments, new.is_protected) == (PATH, True, False)
    assert (new.initiator_spi, new.responder_spi) == (12, 11)


def test_keys_are_told_only_where_they_are_asked_for() -> None:
    for wanted in (False, True):
        context = make_context(IkeConfig(reveal_keys=wanted))
        make_channels(context)
        told = [output for output in context.outputs if isinstance(output, IkeSaKeys)]
        assert bool(told) is wanted
        assert all(isinstance(keys.sk_ei, Secret) for keys in told)


def test_fragments_of_a_request_and_of_a_response_with_the_same_message_id_are_kept_apart() -> None:
    context = make_context()
    ours, theirs = make_channels(context, fragments=True)
    ours.request(ExchangeType.INFORMATIONAL, [])
    (request,) = sent(context)
    assert isinstance(receive(theirs, request), Message)
    theirs.request(ExchangeType.INFORMATIONAL, [Notify(NotifyType.SIZE_PROBE, b"q" * 2000)])
    asked = sent(context)
    theirs.respond(ExchangeType.INFORMATIONAL, [Notify(NotifyType.SIZE_PROBE, b"a" * 2000)])
    answered = sent(context)
    assert len(asked) == len(answered) == 2
    # An attacker on the path chooses the order; nothing may be made of a half of each.
    came = [receive(ours, octets) for octets in (asked[0], answered[1], answered[0], asked[1])]
    whole = [message for message in came if isinstance(message, Message)]
    assert [message.payloads for message in whole] == [
        (Notify(NotifyType.SIZE_PROBE, octet * 2000),) for octet in (b"a", b"q")
    ]
