"""Peers that turned hostile: what they ask for leaves nothing behind, and a change of the configuration holds for them too."""

from openmoat.crypto.kex import make_key_pair, seed_size
from openmoat.ike.negotiate.choice import offer_ike
from openmoat.ike.wire.numbers import ExchangeType
from openmoat.ike.wire.payloads import KeyExchange, Nonce, SecurityAssociation
from scenario.forge import answered, core, establish
from scenario.link import AES_GCM, Host, Link


def rekey_request(host: Host, number: int) -> tuple[SecurityAssociation, Nonce, KeyExchange]:
    """What a request for a successor of the IKE SA says."""
    method = AES_GCM.key_exchanges[0].id
    public_value, _ = make_key_pair(method, host.rng.randbytes(seed_size(method)))
    spi = (0xABCD_0000 + number).to_bytes(8, "big")
    return (
        SecurityAssociation(offer_ike([AES_GCM], spi)),
        Nonce(host.rng.randbytes(32)),
        KeyExchange(method, public_value),
    )


def test_a_peer_that_rekeys_again_and_again_while_we_rekey_leaves_one_successor() -> None:
    link = Link()
    home, portal = establish(link)
    theirs, path = core(portal), home.ike().path
    home.do("rekey_ike", home.ike().ike)
    link.flights.clear()  # our request is never answered
    for number in range(20):
        request = theirs.request(ExchangeType.CREATE_CHILD_SA, *rekey_request(portal, number))
        assert len(answered(home, request, path)) == 1
    assert len(home.ike_sas()) <= 2  # the old one, and the successor that the nonces will be compared with
