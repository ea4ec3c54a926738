"""Certificates in a configuration: what no peer would accept is a fault of the file."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from openmoat.config.key_files import MAX_CERTIFICATE_FILE
from openmoat.config.toml import load
from openmoat.crypto.keys import private_pem
from openmoat.errors import ConfigError
from openmoat.model.connection import Authority, PrivateKey
from unit.crypto.authority import AUTHORITY, Issued, authority, end_entity, issue

ROOT = authority()
TEXT = """
[connections.home]
local.identity = "home.example"
local.key = "home.key"
local.certificates = "home.pem"
peer.identity = "portal.example"
peer.ca-certificates = "root.pem"
peer.addresses = "192.0.2.1"

[connections.home.children.lan]
local = "10.1.0.0/24"
remote = "10.2.0.0/16"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "moat.toml").write_text(TEXT)
    return tmp_path / "moat.toml"


def write(file: Path, leaf: Issued, root: Issued = ROOT) -> Path:
    key = file.parent / "home.key"
    key.touch(mode=0o600)
    key.write_bytes(private_pem(leaf.key))
    (file.parent / "home.pem").write_bytes(leaf.certificate.public_bytes(Encoding.PEM))
    (file.parent / "root.pem").write_bytes(root.certificate.public_bytes(Encoding.PEM))
    return file


def fault(file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file)
    return str(caught.value).removeprefix(f"{file.parent}/")


def test_a_chain_and_an_authority_are_read_as_der(file: Path) -> None:
    leaf = end_entity(ROOT, "home.example")
    connection = load(write(file, leaf)).connections["home"]
    assert isinstance(connection.own, PrivateKey)
    assert connection.own.certificates == (leaf.der,)
    assert connection.peer.credential == Authority((ROOT.der,))


def test_a_certificate_that_does_not_name_our_identity_is_a_fault(file: Path) -> None:
    assert fault(write(file, end_entity(ROOT, "other.example"))) == (
        'moat.toml:5: connection "home": local: certificates: '
        "certificate CN=end: identity home.example is not in it; it names other.example"
    )


def test_an_authority_that_no_chain_may_use_is_a_fault(file: Path) -> None:
    constraints = x509.NameConstraints(permitted_subtrees=[x509.DNSName("example")], excluded_subtrees=None)
    root = issue("CN=root", (*AUTHORITY, (constraints, True)))
    assert "has name constraints, which are not supported" in fault(write(file, end_entity(ROOT, "home.example"), root))


def test_a_file_of_certificates_is_read_up_to_its_bound_and_named_beyond_it(file: Path) -> None:
    leaf = end_entity(ROOT, "home.example")
    certificates = write(file, leaf).parent / "home.pem"
    certificates.write_bytes(certificates.read_bytes().ljust(MAX_CERTIFICATE_FILE, b"\n"))
    own = load(file).connections["home"].own
    assert isinstance(own, PrivateKey)
    assert own.certificates == (leaf.der,)
    with certificates.open("ab") as stream:
        stream.write(b"\n")
    text = fault(file)
    assert text.startswith('moat.toml:5: connection "home": local: certificates: ')
    assert text.endswith(f"home.pem has more than {MAX_CERTIFICATE_FILE} octets; is it the right file?")
