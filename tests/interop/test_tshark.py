"""tshark, with the keys moatd writes when told to, decrypts and verifies our IKE and our ESP."""

import re
from pathlib import Path

import pytest

from openmoat_lab.pairs import Pair, Terms
from openmoat_lab.processes import run

pytestmark = [pytest.mark.namespaces, pytest.mark.strongswan, pytest.mark.tshark]


def tshark(file: Path, keys: Path, want: str, *fields: str) -> list[list[str]]:
    """Rows of fields of the packets that match the display filter `want`."""
    tables = []
    for table, name in (("ikev2_decryption_table", keys), ("esp_sa", keys.with_name(keys.name + ".esp"))):
        tables += [word for line in name.read_text().splitlines() for word in ("-o", f"uat:{table}:{line}")]
    said = run(
        [
            "tshark", "-n", "-r", str(file), *tables,
            "-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE",
            "-Y", want, "-T", "fields", *(word for field in fields for word in ("-e", field)),
        ],
    ).stdout  # fmt: skip
    return [line.split("\t") for line in said.splitlines()]


@pytest.mark.parametrize(
    ("ike", "esp"),
    [("aes128gcm16-prfsha256-x25519", "aes128gcm16"), ("aes256-sha256-prfsha256-x25519", "aes256-sha256")],
)
def test_tshark_decrypts_what_we_send_and_finds_every_icv_good(ike: str, esp: str) -> None:
    with Pair(Terms(ike=ike, esp=f"{esp}-noesn")) as pair:
        capture = pair.lab.capture("router", "left")
        pair.start()
        pair.wait_up()
        pair.ping(count=3)
        file = capture.stop()
        identities = tshark(file, pair.moat.key_log, "isakmp.exchangetype == 35", "ip.src", "isakmp.id.data.fqdn")
        assert {"moat.example"} <= {name for _, names in identities for name in names.split(",")}
        echoes = tshark(file, pair.moat.key_log, "esp && icmp", "ip.src", "icmp.type")
        assert {row[1] for row in echoes} >= {"0", "8"}
        # The expert speaks of IKE: "... Integrity checksum data: incorrect", and of what cannot be dissected.
        unverified = 'esp && !(esp.icv_good == 1) || _ws.expert.message contains "ncorrect" || _ws.malformed'
        assert tshark(file, pair.moat.key_log, unverified, "frame.number", "_ws.expert.message") == []


def test_a_wrong_key_is_noticed_by_the_same_test() -> None:
    with Pair(Terms(esp="aes128gcm16-noesn")) as pair:
        capture = pair.lab.capture("router", "left")
        pair.start()
        pair.wait_up()
        file = capture.stop()
        esp = pair.moat.key_log.with_name("keys.log.esp")
        esp.write_text(re.sub(r',"0x[0-9a-f]{40}",', f',"0x{"00" * 20}",', esp.read_text()))
        assert tshark(file, pair.moat.key_log, "esp && !(esp.icv_good == 1)", "frame.number")
