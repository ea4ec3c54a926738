"""ESP by scapy, as a program of its own: one JSON request a line in, one JSON answer a line out.

Run by the interpreter of scapy's own virtual environment (see `peers/esp_oracle.py`) and never imported: scapy is
GPL-2.0-only. Requests: `{"op": "seal" | "open", "encryption": "AES-GCM", "key": hex, "integrity": "NULL",
"integrity_key": hex, "esn": bool, "spi": n, "sequence": n, "source": "192.0.2.1", "destination": "192.0.2.2",
"udp": bool, "packet": hex}`; `packet` is the inner packet to seal, or the outer one to open. Answers:
`{"packet": hex}` or `{"error": "..."}`.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation

__all__ = ["main"]

LOW_BITS = 0xFFFFFFFF


def main() -> None:
    """Answer requests until the input ends."""
    for line in sys.stdin:
        try:
            reply = _answer(json.loads(line))
        except Exception as error:  # noqa: BLE001 - whatever scapy raises is its answer
            reply = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


def _answer(request: Mapping[str, Any]) -> dict[str, str]:
    packet, sequence, esn = bytes.fromhex(request["packet"]), request["sequence"], request.get("esn", False)
    sa = SecurityAssociation(
        ESP,
        spi=request["spi"],
        crypt_algo=request["encryption"],
        crypt_key=bytes.fromhex(request["key"]),
        auth_algo=request.get("integrity", "NULL"),
        auth_key=bytes.fromhex(request.get("integrity_key", "")),
        tunnel_header=_header(request["source"], request["destination"]),
        nat_t_header=UDP(sport=4500, dport=4500) if request.get("udp") else None,
        esn_en=esn,
        esn=sequence >> 32,
    )
    if request["op"] == "seal":
        done = sa.encrypt(_parse(packet), seq_num=sequence & LOW_BITS, esn_en=esn, esn=sequence >> 32)
    else:
        done = sa.decrypt(_parse(packet), esn_en=esn, esn=sequence >> 32)
    return {"packet": bytes(done).hex()}


def _header(source: str, destination: str) -> Any:
    return IPv6(src=source, dst=destination) if ":" in source else IP(src=source, dst=destination)


def _parse(octets: bytes) -> Any:
    return IPv6(octets) if octets[0] >> 4 == 6 else IP(octets)


if __name__ == "__main__":
    main()
