"""Make a vector file from the log of a charon that began every exchange: `python from_charon_log.py LOG SUITE ESP SPIi SPIr`.

The log is that of an initiator with `ike = 4`, `chd = 4`, `enc = 3` and a pre-shared key, after `swanctl --initiate --child`,
`--rekey --child` and `--rekey --ike`, once each; SPIi and SPIr are those of the successor, from `--list-sas`.
What is in the file was computed by strongSwan alone.
"""

import json
import re
import sys
from pathlib import Path

Values = list[tuple[str, str]]
"""Title of a dump and its octets in hexadecimal, in the order of the log."""

TITLE = re.compile(r"^\d+\[\w+\] +(.*?) ?=> (\d+) bytes @")
DUMP = re.compile(r"^\d+\[\w+\] +\d+: ((?:[0-9A-F]{2} )+)")


def read(log: str) -> Values:
    """Every dump of the log; one of a NONCE payload is called so."""
    found: Values = []
    payload = ""
    for line in log.splitlines():
        if ("payload of type NONCE" in line and "generating" in line) or "parsing NONCE payload," in line:
            payload = "NONCE"
        elif "NONCE payload finished" in line:
            payload = ""
        if title := TITLE.match(line):
            is_nonce = payload and not title[1] and int(title[2]) > 2
            found.append((payload if is_nonce else title[1], ""))
        elif (dump := DUMP.match(line)) and found:
            # The text column may look like hexadecimal, so at most sixteen octets of a line count.
            found[-1] = (found[-1][0], found[-1][1] + "".join(dump[1].split()[:16]).lower())
    return found


def ike_sa(values: Values, nonces: list[str], spi_i: str, spi_r: str) -> dict[str, str]:
    """The first IKE SA of `values`."""
    names = {"shared Diffie Hellman secret": "shared", "SKEYSEED": "skeyseed"}
    names |= {f"Sk_{key} secret": f"sk_{key}" for key in ("d", "ai", "ar", "ei", "er", "pi", "pr")}
    keys = {field: next((octets for title, octets in values if title == name), "") for name, field in names.items()}
    return {"nonce_i": nonces[0], "nonce_r": nonces[1], "spi_i": spi_i, "spi_r": spi_r, **keys}


def children(values: Values) -> list[dict[str, str]]:
    """Each Child SA: its seed is g^ir, where there is one, and the nonces."""
    found: list[dict[str, str]] = []
    for title, octets in values:
        match title.split():
            case ["seed"]:
                found.append({"seed": octets})
            case ["encryption" | "integrity" as kind, "initiator" | "responder" as end, "key"]:
                found[-1][f"{kind}_{end}"] = octets
    return found


def received(values: Values) -> list[dict[str, str]]:
    """SK payloads that charon opened: their order of dumps is IV, encrypted with ICV, ICV, assoc, plain."""
    found = []
    wanted = ["IV", "encrypted", "ICV", "assoc", "plain"]
    for at in range(len(values) - len(wanted)):
        window = values[at : at + len(wanted)]
        if [title for title, _ in window] == wanted:
            iv, encrypted, _, associated, plain = (octets for _, octets in window)
            found.append({"associated": associated, "body": iv + encrypted, "plaintext": plain})
    return found


def main(log: str, suite: str, esp: str, spi_i: str, spi_r: str) -> None:
    values = read(Path(log).read_text())
    nonces = [octets for title, octets in values if title == "NONCE"]
    auth = [octets for title, octets in values if title.startswith(("IDx'", "SK_p", "octets =", "AUTH ="))]
    first, second = (at for at, (title, _) in enumerate(values) if title == "shared Diffie Hellman secret")
    response = auth[6]  # what the responder signed begins with the header of its IKE_SA_INIT
    sys.stdout.write(
        json.dumps(
            {
                "source": "strongSwan 5.9.8 of Debian 12 on both ends, log of the initiator, from_charon_log.py beside this file",
                "suite": suite,
                "esp": esp,
                "psk": b"interop-secret".hex(),
                "ike_sa": ike_sa(values[first:], nonces[0:2], response[:16], response[16:32]),
                "rekeyed": ike_sa(values[second:], nonces[4:6], spi_i, spi_r),
                "children": children(values),
                "auth": [
                    {"id": auth[at], "sk_p": auth[at + 1], "signed": auth[at + 2], "auth": auth[at + 3]}
                    for at in (0, 4)
                ],
                "received": received(values)[:2],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.write("\n")
