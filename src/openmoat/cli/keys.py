"""`moat keys`: make keys and pre-shared keys, and show the line that the other side needs."""

import base64
import json
import os
import secrets
from enum import Enum
from pathlib import Path
from typing import NoReturn

import click

from openmoat.cli.common import ExitCode, Group, fail, json_option
from openmoat.crypto.keys import (
    MAX_KEY_FILE,
    KeyKind,
    fingerprint,
    generate,
    kind_of,
    load_private_key,
    load_public_key,
    private_pem,
    public_key,
    public_line,
    public_pem,
    spki_of,
)
from openmoat.crypto.x509 import load_certificates, subject_key
from openmoat.errors import ControlError, CryptoError

__all__ = ["PSK_SIZE", "Kind", "app"]

app = Group(name="keys", help="Make and show keys and pre-shared keys.", no_args_is_help=True)

PSK_SIZE = 32
"""Random octets of a pre-shared key; its file holds them in base64."""


SHORTEST_LINE = 60
"""Octets of the shortest public key as one line: Ed25519. A pre-shared key of `PSK_SIZE` is shorter."""


class Kind(Enum):
    """What `moat keys generate` makes."""

    ED25519 = KeyKind.ED25519.value
    ECDSA_P256 = KeyKind.ECDSA_P256.value
    RSA_3072 = KeyKind.RSA_3072.value
    PSK = "psk"


@app.command(
    name="generate",
    examples={
        "moat keys generate moat.key": "a private key; prints its public half",
        "moat keys generate office.psk --kind psk": "a pre-shared key, for both sides",
    },
)
@click.argument("file", type=click.Path(path_type=Path), help="File to make; it must not exist yet.")
@click.option(
    "--kind",
    type=click.Choice([kind.value for kind in Kind]),
    default=Kind.ED25519.value,
    help="Kind of key; psk makes a pre-shared key.",
)
@json_option
def generate_key(file: Path, kind: str, as_json: bool) -> None:
    """Make a private key, or a pre-shared key.

    Only its owner can read the file.
    """
    if kind == Kind.PSK.value:
        _write(file, base64.b64encode(secrets.token_bytes(PSK_SIZE)) + b"\n", as_json=as_json)
        if as_json:
            print(json.dumps({"schema": "moat.key/1", "file": str(file), "kind": "psk"}))
        else:
            print(f"{file}: a pre-shared key")
            print("copy it to the other side over a secure channel; both name it with: psk")
        return
    key = generate(KeyKind(kind))
    _write(file, private_pem(key), as_json=as_json)
    _show(file, spki_of(key), as_json=as_json)


@app.command(
    name="show",
    examples={
        "moat keys show moat.key": "the line for the other side",
        "moat keys show moat.key --pem": "for a router that takes PEM",
    },
)
@click.argument("file", type=click.Path(path_type=Path), help="Private key, public key or certificate.")
@json_option
@click.option("--pem", is_flag=True, help="Print the public key in PEM and nothing else.")
def show_key(file: Path, as_json: bool, pem: bool) -> None:
    """Show the public half of a key.

    Its kind, its fingerprint, and the line that the other side needs.
    """
    try:
        with file.open("rb") as stream:
            spki = _public_half(stream.read(MAX_KEY_FILE + 1))
    except OSError as error:
        _end(f"{file}: {error.strerror}", as_json=as_json)
    except CryptoError as error:
        _end(f"{file}: {error}", as_json=as_json)
    if pem:
        print(public_pem(spki).decode(), end="")
    else:
        _show(file, spki, as_json=as_json)


def _public_half(octets: bytes) -> bytes:
    """SubjectPublicKeyInfo of whatever kind of file this is; `CryptoError` where it is none."""
    if b"PRIVATE KEY-----" in octets:
        return spki_of(load_private_key(octets))
    if b"-----BEGIN CERTIFICATE-----" in octets:
        return spki_of(subject_key(load_certificates(octets)[0]))
    if len(octets.strip()) < SHORTEST_LINE:
        raise CryptoError(
            "too short for a public key; if it is a pre-shared key: that has no public half, both sides have the same;"
            " copy the file over a secure channel"
        )
    return load_public_key(octets)


def _show(file: Path, spki: bytes, *, as_json: bool) -> None:
    kind, line = kind_of(public_key(spki)), public_line(spki)
    if as_json:
        row = {"file": str(file), "kind": kind, "fingerprint": fingerprint(spki), "key": line}
        print(json.dumps({"schema": "moat.key/1", **row}))
        return
    print(f"{file}: {kind} {fingerprint(spki)}")
    print("the other side needs this line, as its peer's key:")
    print(f'key = "{line}"')


def _write(file: Path, octets: bytes, *, as_json: bool) -> None:
    """Make a file that only its owner reads, whole or not at all, and never in the place of another.

    What root makes belongs to whom the directory belongs to: moatd reads its keys without being root.
    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        _end(
            f"{file}: exists already; peers that use this key would no longer recognise this host: move the file first",
            as_json=as_json,
        )
    except OSError as error:
        _end(f"{file}: {error.strerror}", as_json=as_json)
    try:
        with open(descriptor, "wb") as stream:
            if os.geteuid() == 0:
                directory = file.parent.stat()
                os.fchown(descriptor, directory.st_uid, directory.st_gid)
            stream.write(octets)
    except OSError as error:
        file.unlink(missing_ok=True)
        _end(f"{file}: {error.strerror}", as_json=as_json)


def _end(text: str, *, as_json: bool) -> NoReturn:
    fail(ExitCode.REFUSED, ControlError("bad-request", text), as_json=as_json)
