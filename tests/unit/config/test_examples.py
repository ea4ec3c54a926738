"""The examples of the guide load as they are printed."""

import shutil
from pathlib import Path

import pytest

from openmoat.config.toml import Configuration, load
from openmoat.crypto.keys import KeyKind, generate, private_pem
from openmoat.model.connection import Start

GUIDE = Path(__file__).parents[3] / "docs" / "guide" / "example"


@pytest.fixture
def examples(tmp_path: Path) -> dict[str, Configuration]:
    """Both ends, with keys made as the guide says."""
    keys = {name: generate(KeyKind.ED25519) for name in ("home", "portal")}
    shutil.copytree(GUIDE, tmp_path, dirs_exist_ok=True)
    for name, other in (("home", "portal"), ("portal", "home")):
        private = tmp_path / name / f"{name}.key"
        private.write_bytes(private_pem(keys[name]))
        private.chmod(0o600)
        (tmp_path / name / f"{other}.pub").write_bytes(public_pem(keys[other]))
    return {name: load(tmp_path / name / "moat.toml") for name in keys}


def public_pem(key: object) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    assert isinstance(key, Ed25519PrivateKey)
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_the_two_ends_of_the_example_fit_together(examples: dict[str, Configuration]) -> None:
    home, portal = examples["home"].connections["office"], examples["portal"].connections["home"]
    assert home.peer.identity.matches(portal.local_identity)
    assert portal.peer.identity.matches(home.local_identity)
    assert home.children[0].local == portal.children[0].remote
    assert home.children[0].remote == portal.children[0].local


def test_the_home_begins_and_the_portal_waits(examples: dict[str, Configuration]) -> None:
    assert examples["home"].connections["office"].children[0].start is Start.AUTO
    assert examples["portal"].connections["home"].children[0].start is Start.NONE
