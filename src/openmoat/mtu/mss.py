"""TCP segment sizes that fit into a tunnel, for the clamp on SYNs and for routes (RFC 6691, RFC 9293 3.7.1)."""

from openmoat.mtu.overhead import IP_HEADER, TCP_HEADER

__all__ = ["mss_for"]


def mss_for(inner_room: int, version: int) -> int:
    """MSS whose full segments, without options, are packets of `inner_room` octets over IP of this version."""
    return inner_room - IP_HEADER[version] - TCP_HEADER
