"""What the programs of the benchmark put into one datagram."""

from openmoat_lab.bench.flood import BATCH, MAX_TOGETHER
from openmoat_lab.bench.initiators import MAX_DATAGRAM

UDP_AND_IPV4 = 28


def test_a_super_packet_of_the_sender_fits_an_ip_packet() -> None:
    assert MAX_TOGETHER + UDP_AND_IPV4 <= MAX_DATAGRAM
    assert all(min(BATCH, MAX_TOGETHER // octets) * octets <= MAX_TOGETHER for octets in (64, 512, 1300, MAX_TOGETHER))
