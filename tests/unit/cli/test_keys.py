"""`moat keys`: files that only their owner reads, and the line for the other side."""

import json
import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import Encoding

from openmoat.cli.keys import app
from openmoat.crypto.keys import (
    fingerprint,
    kind_of,
    load_private_key,
    load_public_key,
    parse_public_line,
    public_key,
    spki_of,
)
from unit.crypto.authority import authority


def run(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
@pytest.mark.parametrize("kind", ["ed25519", "psk"])
def test_what_root_makes_belongs_to_the_owner_of_the_directory(tmp_path: Path, kind: str) -> None:
    os.chown(tmp_path, 65534, 65534)
    run("generate", tmp_path / "home.key", "--kind", kind)
    made = (tmp_path / "home.key").stat()
    assert (made.st_uid, made.st_gid, stat.S_IMODE(made.st_mode)) == (65534, 65534, 0o600)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa-p256", "rsa-3072"])
def test_generate_makes_a_key_that_only_its_owner_reads(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "home.key"
    output = run("generate", file, "--kind", kind)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    spki = spki_of(load_private_key(file.read_bytes()))
    assert output.splitlines()[0] == f"{file}: {kind_of(public_key(spki))} {fingerprint(spki)}"
    line = output.splitlines()[-1]
    assert parse_public_line(line.removeprefix('key = "').removesuffix('"')) == spki


def test_ed25519_is_what_is_made_if_nothing_is_said(tmp_path: Path) -> None:
    assert ": Ed25519 SHA256:" in run("generate", tmp_path / "home.key")


def test_generate_never_replaces_a_file(tmp_path: Path) -> None:
    file = tmp_path / "home.key"
    file.write_text("precious")
    for kind in ("ed25519", "psk"):
        assert "exists already" in run("generate", file, "--kind", kind, code=1)
    assert file.read_text() == "precious"


def test_a_shared_secret_is_one_line_that_is_never_shown(tmp_path: Path) -> None:
    first, second = tmp_path / "a.psk", tmp_path / "b.psk"
    output = run("generate", first, "--kind", "psk") + run("generate", second, "--kind", "psk", "--json")
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    assert len(first.read_text()) == 45
    assert first.read_text() != second.read_text()
    assert first.read_text().strip() not in output
    assert second.read_text().strip() not in output


@pytest.mark.parametrize("words", ["", "correct horse battery staple", "s3cret"])
def test_a_pre_shared_key_has_no_public_half_and_is_not_repeated(tmp_path: Path, words: str) -> None:
    file = tmp_path / "office.psk"
    if words:
        file.write_text(words)
    else:
        run("generate", file, "--kind", "psk")
    output = run("show", file, code=1)
    assert "has no public half" in output
    assert not any(word in output.replace(str(file), "") for word in file.read_text().split())


def test_show_prints_the_same_as_generate_and_no_private_half(tmp_path: Path) -> None:
    file = tmp_path / "home.key"
    assert run("generate", file) == run("show", file)
    secret = "".join(file.read_text().splitlines()[1:-1])
    assert secret not in run("show", file) + run("show", file, "--json") + run("show", file, "--pem")


def test_show_reads_public_keys_and_certificates_too(tmp_path: Path) -> None:
    file, public = tmp_path / "home.key", tmp_path / "home.pub"
    run("generate", file)
    public.write_text(run("show", file, "--pem"))
    assert load_public_key(public.read_bytes()) == spki_of(load_private_key(file.read_bytes()))
    assert run("show", public).splitlines()[1:] == run("show", file).splitlines()[1:]
    root = authority()
    public.write_bytes(root.certificate.public_bytes(Encoding.PEM))
    assert json.loads(run("show", public, "--json"))["fingerprint"] == fingerprint(spki_of(root.key))


def test_json_names_its_schema(tmp_path: Path) -> None:
    row = json.loads(run("generate", tmp_path / "home.key", "--json"))
    assert row["schema"] == "moat.key/1"
    assert fingerprint(parse_public_line(row["key"])) == row["fingerprint"]


@pytest.mark.parametrize("content", [b"", b"nothing", b"\xff" * 70000, b"-----BEGIN CERTIFICATE-----\n"])
def test_a_file_that_holds_no_key_is_named_with_the_reason(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "home.key"
    file.write_bytes(content)
    assert run("show", file, code=1).startswith(f"moat: {file}: ")
    assert "No such file" in run("show", tmp_path / "none", code=1)


def test_for_programs_a_refusal_is_an_object(tmp_path: Path) -> None:
    for words in (("show", tmp_path / "none"), ("generate", tmp_path / "none/home.key")):
        told = json.loads(run(*words, "--json", code=1))
        assert (told["schema"], told["code"]) == ("moat.error/1", "bad-request")
        assert "No such file or directory" in told["text"]
