"""A moat with a strongSwan: each way of proving oneself, each suite and each key exchange, begun by either."""

import itertools

import pytest

from openmoat_lab.pairs import Pair, Terms

pytestmark = [pytest.mark.namespaces, pytest.mark.strongswan]

AUTHS = ("psk", "rsa", "ecdsa", "ed25519")
CIPHERS = ("aes128gcm16", "chacha20poly1305", "aes256-sha256")
GROUPS = ("x25519", "ecp256", "modp2048")

# Every value of any two columns stands together in some row: auth, cipher of IKE, cipher of ESP, group, who begins.
COVERING = (
    ("psk", 0, 0, 0, True),
    ("psk", 1, 1, 1, False),
    ("psk", 2, 2, 2, True),
    ("rsa", 0, 1, 2, False),
    ("rsa", 1, 2, 0, True),
    ("rsa", 2, 0, 1, False),
    ("ecdsa", 0, 2, 1, True),
    ("ecdsa", 1, 0, 2, False),
    ("ecdsa", 2, 1, 0, True),
    ("ed25519", 0, 0, 1, True),
    ("ed25519", 1, 1, 2, True),
    ("ed25519", 2, 2, 0, False),
    ("psk", 2, 0, 0, False),
    ("rsa", 0, 0, 2, True),
    ("ecdsa", 1, 1, 1, False),
)


def terms_of(row: tuple[str, int, int, int, bool]) -> Terms:
    auth, ike, esp, group, moat_begins = row
    cipher = CIPHERS[ike]
    return Terms(
        auth=auth,
        ike=f"{cipher}-prfsha256-{GROUPS[group]}",
        esp=f"{CIPHERS[esp]}-{GROUPS[group]}",
        moat_begins=moat_begins,
    )


def test_the_rows_cover_every_pair_of_values() -> None:
    values = (AUTHS, range(3), range(3), range(3), (True, False))
    for a, b in itertools.combinations(range(5), 2):
        seen = {(row[a], row[b]) for row in COVERING}
        assert seen == set(itertools.product(values[a], values[b])), (a, b)


@pytest.mark.parametrize("row", COVERING, ids=lambda row: "-".join(str(word) for word in row))
def test_a_tunnel_carries_ping_and_ten_megabytes_both_ways(row: tuple[str, int, int, int, bool]) -> None:
    with Pair(terms_of(row)) as pair:
        pair.start()
        pair.wait_up()
        pair.ping()
        pair.transfer()


@pytest.mark.parametrize("begins", [True, False], ids=["moat-begins", "strongswan-begins"])
def test_ipv6_outside_carries_ipv4_inside(begins: bool) -> None:
    with Pair(Terms(version=6, moat_begins=begins)) as pair:
        pair.start()
        pair.wait_up()
        pair.ping()
        pair.transfer(1_000_000)


def test_a_moat_behind_a_nat_is_reached_from_both_sides() -> None:
    with Pair(Terms(nat=True)) as pair:
        pair.start()
        pair.wait_up()
        pair.ping()
        pair.transfer()
        # strongSwan sees the NAT's address, and a port that is not 4500.
        assert "198.51.100.1[" in pair.swan.sas()
