import pytest
from msgspec.structs import replace

from openmoat.ike.errors import MalformedMessage, UnsupportedVersion
from openmoat.ike.wire.message import MAX_MESSAGE, MAX_PAYLOADS, Header, Message, parse_inside
from openmoat.ike.wire.numbers import ExchangeType, NotifyType, PayloadType
from openmoat.ike.wire.payloads import Encrypted, Nonce, Notify, Unknown, VendorId

HEADER = Header(0x1122334455667788, 0, ExchangeType.IKE_SA_INIT, is_initiator=True, is_response=False, message_id=0)


class Reverser:
    """A protection that hides nothing: reversed octets between an IV of four and an ICV of two."""

    iv_size = 4

    def sealed_size(self, plaintext_size: int) -> int:
        return plaintext_size + 6

    def seal(self, associated: bytes, plaintext: bytes, iv: bytes) -> bytes:
        return iv + plaintext[::-1] + len(associated).to_bytes(2, "big")

    def open(self, associated: bytes, body: bytes) -> bytes:
        assert int.from_bytes(body[-2:], "big") == len(associated)
        return body[4:-2][::-1]


def test_a_clear_message_comes_back_as_it_was() -> None:
    message = Message(HEADER, (Nonce(bytes(32)), VendorId(b"somebody")))
    assert Message.parse(message.emit()) == message


def test_a_sealed_message_comes_back_as_it_was() -> None:
    message = Message(replace(HEADER, exchange=ExchangeType.INFORMATIONAL, responder_spi=7), (Nonce(bytes(32)),))
    datagram = message.seal(Reverser(), b"\1\2\3\4")
    outside = Message.parse(datagram)
    assert outside.payloads == ()
    assert isinstance(outside.sealed, Encrypted)
    assert outside.open(datagram, Reverser()) == replace(message, is_protected=True)


def test_an_empty_informational_seals_to_a_payload_of_no_type() -> None:
    datagram = Message(HEADER, ()).seal(Reverser(), bytes(4))
    sealed = Message.parse(datagram).sealed
    assert sealed is not None
    assert sealed.first is PayloadType.NONE
    assert Message.parse(datagram).open(datagram, Reverser()).payloads == ()


@pytest.mark.parametrize("size", range(28))
def test_a_datagram_shorter_than_the_header_is_refused(size: int) -> None:
    with pytest.raises(MalformedMessage, match="header: needs 28 octets"):
        Header.parse(Message(HEADER, ()).emit()[:size])


@pytest.mark.parametrize("change", [-1, 1, 1 << 16])
def test_a_length_other_than_that_of_the_datagram_is_refused(change: int) -> None:
    datagram = bytearray(Message(HEADER, ()).emit())
    datagram[24:28] = (len(datagram) + change).to_bytes(4, "big")
    with pytest.raises(MalformedMessage, match="the length field says"):
        Header.parse(bytes(datagram))


def test_a_higher_major_version_has_a_header_but_no_payloads() -> None:
    datagram = Message(replace(HEADER, major=3), ()).emit()
    header = Header.parse(datagram)
    assert header.message_id == 0
    with pytest.raises(UnsupportedVersion) as caught:
        Message.parse(datagram, header)
    assert caught.value.notify is NotifyType.INVALID_MAJOR_VERSION
    assert caught.value.data == b"\x20"


@pytest.mark.parametrize("version", [0x00, 0x10])
def test_a_lower_major_version_is_refused(version: int) -> None:
    datagram = bytearray(Message(HEADER, ()).emit())
    datagram[17] = version
    with pytest.raises(MalformedMessage, match="major version 2"):
        Header.parse(bytes(datagram))


def test_payload_types_of_ikev1_are_refused() -> None:
    datagram = Message(HEADER, (Unknown(PayloadType(13), False, b""),)).emit()
    with pytest.raises(MalformedMessage, match="IKEv1"):
        Message.parse(datagram)


def test_unknown_payloads_survive_with_their_critical_bit() -> None:
    message = Message(HEADER, (Unknown(PayloadType(200), True, b"abc"), Unknown(PayloadType(201), False, b"")))
    assert Message.parse(message.emit()) == message


def test_a_message_is_sealed_up_to_the_octets_its_header_can_count() -> None:
    room = MAX_MESSAGE - 28 - 4 - 4 - 6
    full = Message(HEADER, (Unknown(PayloadType(200), False, bytes(room)),)).seal(Reverser(), bytes(4))
    assert len(full) == MAX_MESSAGE == 2**16 - 1
    with pytest.raises(ValueError, match=f"at most {MAX_MESSAGE} octets, not {MAX_MESSAGE + 1}"):
        Message(HEADER, (Unknown(PayloadType(200), False, bytes(room + 1)),)).seal(Reverser(), bytes(4))


def test_more_payloads_than_the_bound_are_refused() -> None:
    one = Message(HEADER, (VendorId(b""),)).emit()
    chain = (b"\x2b\0\0\4" * 64) + b"\0\0\0\4"
    datagram = one[:24] + (28 + len(chain)).to_bytes(4, "big") + chain
    with pytest.raises(MalformedMessage, match="at most 64 payloads"):
        Message.parse(datagram)


def test_octets_after_the_last_payload_are_refused() -> None:
    datagram = bytearray(Message(HEADER, (VendorId(b"x"),)).emit() + b"\0")
    datagram[24:28] = len(datagram).to_bytes(4, "big")
    with pytest.raises(MalformedMessage, match="nothing may follow"):
        Message.parse(bytes(datagram))


def test_octets_after_an_encrypted_payload_are_refused() -> None:
    datagram = bytearray(Message(HEADER, ()).seal(Reverser(), bytes(4)) + b"\0")
    datagram[24:28] = len(datagram).to_bytes(4, "big")
    with pytest.raises(MalformedMessage, match="SK: must be the last payload"):
        Message.parse(bytes(datagram))


def test_the_first_error_is_found_whether_we_know_it_or_not() -> None:
    status, error = Notify(NotifyType.INITIAL_CONTACT), Notify(NotifyType(8000))
    assert Message(HEADER, (status, error)).error() == error
    assert Message(HEADER, (status,)).error() is None


def test_an_initiator_spi_of_zero_is_refused() -> None:
    datagram = Message(HEADER, ()).emit()
    with pytest.raises(MalformedMessage, match="must not be 0"):
        Header.parse(bytes(8) + datagram[8:])


def test_payloads_are_found_by_class_and_notifies_by_type() -> None:
    first, second = Notify(NotifyType.COOKIE, b"1"), Notify(NotifyType.COOKIE, b"2")
    message = Message(HEADER, (VendorId(b"x"), first, second))
    assert message.first(Notify) == first
    assert message.every(Notify) == (first, second)
    assert message.notify(NotifyType.COOKIE) == first
    assert message.first(Nonce) is None
    assert message.notify(NotifyType.REKEY_SA) is None


def test_a_clear_message_cannot_be_opened() -> None:
    message = Message(HEADER, (VendorId(b"x"),))
    with pytest.raises(MalformedMessage, match="an SK payload must be there"):
        message.open(message.emit(), Reverser())


def test_an_encrypted_payload_cannot_stand_inside_another() -> None:
    inner = bytes.fromhex("00 00 0006 abcd")
    datagram = Message(HEADER, ()).seal(Reverser(), bytes(4))
    body = bytes(4) + inner[::-1] + (32).to_bytes(2, "big")
    datagram = (
        datagram[:24] + (32 + len(body)).to_bytes(4, "big") + b"\x2e\0" + (4 + len(body)).to_bytes(2, "big") + body
    )
    with pytest.raises(MalformedMessage, match="SK: cannot stand inside"):
        Message.parse(datagram).open(datagram, Reverser())


def put_before_sk(kind: int) -> bytes:
    """An SK message with a payload of four octets in clear before the SK."""
    datagram = Message(HEADER, ()).seal(Reverser(), bytes(4))
    body = bytes(4) + (36).to_bytes(2, "big")
    chain = b"\x2e\x80\0\4" + b"\0\0" + (4 + len(body)).to_bytes(2, "big") + body
    return datagram[:16] + bytes((kind,)) + datagram[17:24] + (28 + len(chain)).to_bytes(4, "big") + chain


def test_a_known_payload_before_an_encrypted_one_is_refused() -> None:
    datagram = put_before_sk(PayloadType.VENDOR_ID)
    with pytest.raises(MalformedMessage, match="must stand inside the encrypted payload"):
        Message.parse(datagram).open(datagram, Reverser())


def test_an_unknown_payload_before_an_encrypted_one_is_kept_with_its_critical_bit() -> None:
    datagram = put_before_sk(200)
    assert Message.parse(datagram).open(datagram, Reverser()).payloads == (Unknown(PayloadType(200), True, b""),)


@pytest.mark.parametrize("length", [0, 3, 6, 65535])
def test_a_payload_length_that_cannot_be_is_refused(length: int) -> None:
    datagram = Message(HEADER, (VendorId(b"x"),)).emit()
    with pytest.raises(MalformedMessage, match=f"VENDOR_ID: length says {length} octets, 5 left"):
        Message.parse(datagram[:30] + length.to_bytes(2, "big") + datagram[32:])


def test_a_message_beyond_the_bounds_is_our_own_misuse() -> None:
    with pytest.raises(ValueError, match="at most 64 payloads"):
        Message(HEADER, (VendorId(b""),) * 65).emit()
    with pytest.raises(ValueError, match="at most 65535 octets"):
        Message(HEADER, (VendorId(bytes(40_000)), VendorId(bytes(25_500)))).seal(Reverser(), bytes(4))


def test_a_chain_of_more_payloads_than_the_bound_is_refused_in_the_clear_and_inside() -> None:
    datagram = Message(HEADER, (VendorId(b"x"),) * MAX_PAYLOADS).emit()
    assert len(Message.parse(datagram).payloads) == MAX_PAYLOADS
    chain = (bytes((PayloadType.VENDOR_ID, 0, 0, 5)) + b"x") * MAX_PAYLOADS + bytes((0, 0, 0, 5)) + b"x"
    header = bytearray(datagram[:28])
    header[24:28] = (28 + len(chain)).to_bytes(4, "big")
    with pytest.raises(MalformedMessage, match=f"message: at most {MAX_PAYLOADS} payloads; there are more"):
        Message.parse(bytes(header) + chain)
    with pytest.raises(MalformedMessage, match=f"message: at most {MAX_PAYLOADS} payloads; there are more"):
        parse_inside(PayloadType.VENDOR_ID, chain)
