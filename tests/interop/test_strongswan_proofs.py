"""A moat with a strongSwan: the ways of proving an identity that the covering set has not, and those that are refused."""

from dataclasses import replace

import pytest

from openmoat_lab.pairs import Pair, Terms
from openmoat_lab.peers.strongswan import Section, StrongSwan
from openmoat_lab.pki import Authority
from openmoat_lab.processes import wait_until

pytestmark = [pytest.mark.namespaces, pytest.mark.strongswan]

EITHER_BEGINS = pytest.mark.parametrize("begins", [True, False], ids=["moat-begins", "strongswan-begins"])
BEFORE_RFC_7427: Section = {"signature_authentication": "no"}


def start(pair: Pair, settings: Section | None = None) -> None:
    """Start both, and begin where strongSwan begins; what comes of it is for the test to see."""
    pair.prepare()
    pair.swan = StrongSwan(pair.lab, "right", [pair.record], pair.proof.swan_keys, settings)
    pair.swan.start()
    pair.moat.start()
    if not pair.terms.moat_begins:
        pair.swan.initiate(check=False)


def says(pair: Pair, text: str) -> None:
    """Wait until strongSwan has written this."""
    wait_until(f"strongSwan says: {text}", lambda: text in pair.swan.log(), 15)


@EITHER_BEGINS
@pytest.mark.parametrize(("auth", "word"), [("ecdsa384", "ECDSA_WITH_SHA384_DER"), ("ed448", "ED448")])
def test_certificates_of_other_kinds_prove_both(auth: str, word: str, begins: bool) -> None:
    with Pair(Terms(auth=auth, moat_begins=begins)) as pair:
        start(pair)
        says(pair, f"'moat.example' with {word} successful")
        pair.wait_up()


@EITHER_BEGINS
def test_strongswan_signs_with_pss(begins: bool) -> None:
    with Pair(Terms(auth="rsa", moat_begins=begins)) as pair:
        pair.record = replace(pair.record, local=replace(pair.record.local, auth="rsa/pss-sha256"))
        start(pair)
        says(pair, "(myself) with RSA_EMSA_PSS_SHA2_256_SALT_32")
        pair.wait_up()


@EITHER_BEGINS
def test_ecdsa_works_without_rfc_7427(begins: bool) -> None:
    with Pair(Terms(auth="ecdsa", moat_begins=begins)) as pair:
        start(pair, BEFORE_RFC_7427)
        says(pair, "'moat.example' with ECDSA-256 signature successful")
        pair.wait_up()


def test_a_signature_with_sha1_is_refused_and_the_log_says_so() -> None:
    with Pair(Terms(auth="rsa", moat_begins=False)) as pair:
        start(pair, BEFORE_RFC_7427)
        wait_until("the moat says why", lambda: "SHA-1" in pair.moat.explanations(), 15)
        says(pair, "received AUTHENTICATION_FAILED")


def test_a_certificate_of_another_authority_is_refused_and_the_status_names_it() -> None:
    with Pair(Terms(auth="ecdsa", moat_begins=False)) as pair:
        stranger = Authority.root("somebody else")
        pair.proof = replace(pair.proof, moat_files={**pair.proof.moat_files, "root.pem": stranger.certificate_pem})
        start(pair)
        wait_until("the moat says why", lambda: "no CA certificate of" in pair.moat.explanations(), 15)
