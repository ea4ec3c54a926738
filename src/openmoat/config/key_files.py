"""Files with keys and certificates that a configuration names: each is read once, and remembered for the next reading."""

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from openmoat.config.files import read_file, unreadable
from openmoat.config.stamps import Stamp, stamp_of
from openmoat.config.words import printable
from openmoat.crypto.keys import MAX_KEY_FILE, load_private_key, load_public_key, spki_of
from openmoat.errors import CryptoError, Secret
from openmoat.model.connection import PrivateKey, Psk, RawKey

__all__ = ["MAX_CERTIFICATE_FILE", "MAX_PSK", "MIN_PSK", "Files"]

MIN_PSK = 16
"""Octets of a pre-shared key. A short one can be guessed by anybody who has once pretended to be the peer (RFC 7296 8)."""
MAX_PSK = 4096
MAX_CERTIFICATE_FILE = 1 << 20


@dataclass(slots=True)
class Files:
    """Key files that were read, each once; thousands of connections may name the same one.

    `ValueError` says what is wrong with a file, and never what is in it.
    """

    owners: frozenset[int] = frozenset()
    """Users beside root and us whose secrets are taken: the owner of the configuration decides everything anyway."""
    psks: dict[str, Secret] = field(default_factory=dict)
    private_keys: dict[str, Secret] = field(default_factory=dict)
    public_keys: dict[str, bytes] = field(default_factory=dict)
    """SubjectPublicKeyInfo of the private keys."""
    certificates: dict[str, tuple[bytes, ...]] = field(default_factory=dict)
    stamps: dict[str, Stamp | None] = field(default_factory=dict)
    """Of every key file that was looked at, from before it was read; None where nothing can be told from it later."""
    named: list[str] = field(default_factory=list)
    """What was asked for, in order; empty it before to learn what one connection names."""

    def stamp(self, name: str) -> Stamp | None:
        """What the file is now; each is looked at once, so that all connections see the same."""
        if name not in self.stamps:
            self.stamps[name] = stamp_of(name)
        return self.stamps[name]

    def adopt(self, before: "Files", names: Iterable[str]) -> None:
        """Take over what was read before; the files are unchanged since."""
        for name in names:
            if name in before.psks:
                self.psks[name] = before.psks[name]
            if name in before.private_keys:
                self.private_keys[name], self.public_keys[name] = before.private_keys[name], before.public_keys[name]
            if name in before.certificates:
                self.certificates[name] = before.certificates[name]

    def psk(self, file: Path) -> Psk:
        """Read a pre-shared key: the text of the file without the end of its last line."""
        name = self._note(file)
        if name not in self.psks:
            octets = self._read_secret(file).rstrip(b"\r\n")
            if not MIN_PSK <= len(octets) <= MAX_PSK:
                text = f"a pre-shared key of {MIN_PSK} to {MAX_PSK} octets, not {len(octets)}"
                raise ValueError(f"{_name(file)}: {text}; see: moat keys generate --kind psk")
            self.psks[name] = Secret(octets)
        return Psk(name)

    def private_key(self, file: Path) -> PrivateKey:
        """Read a private key and check that it is one."""
        name = self._note(file)
        if name not in self.private_keys:
            octets = self._read_secret(file)
            try:
                self.public_keys[name] = spki_of(load_private_key(octets))
            except CryptoError as error:
                raise ValueError(f"{_name(file)}: {error}") from None
            self.private_keys[name] = Secret(octets)
        return PrivateKey(name)

    def public_key(self, file: Path) -> RawKey:
        """Read a public key in PEM."""
        self._note(file)
        try:
            return RawKey(load_public_key(_read(file, MAX_KEY_FILE)))
        except CryptoError as error:
            raise ValueError(f"{_name(file)}: {error}") from None

    def chain(self, files: Iterable[Path]) -> tuple[bytes, ...]:
        """All certificates of some PEM files, as DER, in their order."""
        found: list[bytes] = []
        for file in files:
            name = self._note(file)
            if name not in self.certificates:
                from openmoat.crypto.x509 import load_certificates  # with certificates only: it takes 2 MB

                octets = _read(file, MAX_CERTIFICATE_FILE)
                try:
                    self.certificates[name] = load_certificates(octets)
                except CryptoError as error:
                    raise ValueError(f"{_name(file)}: {error}") from None
            found += self.certificates[name]
        return tuple(found)

    def _read_secret(self, file: Path) -> bytes:
        return _read(file, MAX_KEY_FILE, self.owners | {0, os.geteuid()})

    def _note(self, file: Path) -> str:
        """Note what is asked for, and what it is before it is read: a later change is then seen the next time."""
        name = sys.intern(str(file))  # thousands of connections may keep it
        self.named.append(name)
        self.stamp(name)
        return name


def _read(file: Path, limit: int, owners: frozenset[int] = frozenset()) -> bytes:
    try:
        return read_file(file, limit, owners)[0]
    except PermissionError as error:
        raise ValueError(f"{_name(file)} {unreadable(file, error)}") from None
    except OSError as error:
        if owners:  # a key that stands in the place of a file name goes to no log
            raise ValueError(f"{(error.strerror or '').lower()}; this option names a file that holds the key") from None
        raise ValueError(f"{_name(file)} {unreadable(file, error)}") from None
    except ValueError as error:
        raise ValueError(f"{_name(file)} {error}") from None


def _name(file: Path) -> str:
    return printable(str(file))
