"""One checked table made into one `Connection`, with the key files it names."""

import os
import pwd
import stat
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from openmoat.config.lines import KeyPath
from openmoat.config.schema import ChildTable, ConnectionTable, LocalTable, PeerTable
from openmoat.config.stamps import Stamp, stamp_of
from openmoat.crypto.identities import Identity, PatternKind
from openmoat.crypto.keys import MAX_KEY_FILE, load_private_key, load_public_key, spki_of
from openmoat.crypto.x509 import check_identity, load_certificates, subject_key
from openmoat.errors import CryptoError, Secret
from openmoat.model.connection import (
    Aggfrag,
    Authority,
    Child,
    ChildLifetimes,
    Connection,
    IcmpCheck,
    IkeLifetimes,
    OuterIcmp,
    Own,
    Peer,
    PeerCredential,
    PrivateKey,
    Psk,
    RawKey,
    Start,
)
from openmoat.model.proposals import DEFAULT_ESP_PROPOSALS, DEFAULT_IKE_PROPOSALS
from openmoat.mtu.words import Df, MssRule, MtuPolicy

__all__ = ["MAX_PSK", "MIN_PSK", "Files", "Place", "build_connection", "read_octets", "unreadable"]

MIN_PSK = 16
"""Octets of a shared secret. A short one can be guessed by whoever has once pretended to be the peer (RFC 7296 8)."""
MAX_PSK = 4096
MAX_CERTIFICATE_FILE = 1 << 20

Place = tuple[KeyPath, str]
"""An option below the connection, and what is wrong with it."""


@dataclass(slots=True)
class Files:
    """Key files that were read, each once; thousands of connections may name the same one."""

    owners: frozenset[int] = frozenset()
    """Users beside root and us whose secrets are taken: whoever owns the configuration decides everything anyway."""
    psks: dict[str, Secret] = field(default_factory=dict)
    private_keys: dict[str, Secret] = field(default_factory=dict)
    public_keys: dict[str, bytes] = field(default_factory=dict)
    """SubjectPublicKeyInfo of the private keys."""
    certificates: dict[str, tuple[bytes, ...]] = field(default_factory=dict)
    stamps: dict[str, Stamp | None] = field(default_factory=dict)
    """Of every key file that was looked at, from before it was read; None where nothing can be told from it later."""
    named: list[str] = field(default_factory=list)
    """What was asked for, in order; whoever wants to know what one connection names empties it before."""

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
        """Read a shared secret: the text of the file without the end of its last line. `ValueError` says what is wrong."""
        name = self._name(file)
        if name not in self.psks:
            octets = _read(file, MAX_KEY_FILE, owners=self.owners | {0, os.geteuid()}).rstrip(b"\r\n")
            if not MIN_PSK <= len(octets) <= MAX_PSK:
                raise ValueError(f"{file}: a shared secret of {MIN_PSK} to {MAX_PSK} octets, {len(octets)} came")
            self.psks[name] = Secret(octets)
        return Psk(name)

    def private_key(self, file: Path) -> PrivateKey:
        """Read a private key and check that it is one."""
        name = self._name(file)
        if name not in self.private_keys:
            octets = _read(file, MAX_KEY_FILE, owners=self.owners | {0, os.geteuid()})
            try:
                self.public_keys[name] = spki_of(load_private_key(octets))
            except CryptoError as error:
                raise ValueError(f"{file}: {error}") from None
            self.private_keys[name] = Secret(octets)
        return PrivateKey(name)

    def public_key(self, file: Path) -> RawKey:
        """Read a public key in PEM."""
        self._name(file)
        try:
            return RawKey(load_public_key(_read(file, MAX_KEY_FILE)))
        except CryptoError as error:
            raise ValueError(f"{file}: {error}") from None

    def chain(self, files: Iterable[Path]) -> tuple[bytes, ...]:
        """All certificates of some PEM files, as DER, in their order."""
        found: list[bytes] = []
        for file in files:
            name = self._name(file)
            if name not in self.certificates:
                octets = _read(file, MAX_CERTIFICATE_FILE)
                try:
                    self.certificates[name] = load_certificates(octets)
                except CryptoError as error:
                    raise ValueError(f"{file}: {error}") from None
            found += self.certificates[name]
        return tuple(found)

    def _name(self, file: Path) -> str:
        """Note what is asked for, and what it is before it is read: a later change is then seen the next time."""
        name = sys.intern(str(file))  # thousands of connections may keep it
        self.named.append(name)
        self.stamp(name)
        return name


def build_connection(
    name: str, table: ConnectionTable, directory: Path, files: Files
) -> tuple[Connection | None, list[Place]]:
    """The connection of a table, or all that keeps it from being one. Files are relative to `directory`."""
    return _Builder(name, table, directory, files).build()


class _Builder:
    """Goes on after a fault, so that all are found."""

    def __init__(self, name: str, table: ConnectionTable, directory: Path, files: Files) -> None:
        self.name, self.table, self.directory, self.files = name, table, directory, files
        self.faults: list[Place] = []

    def build(self) -> tuple[Connection | None, list[Place]]:
        table = self.table
        own = self._own(table.local)
        peer = self._peer(table.peer)
        lifetimes = self._ike_lifetimes()
        children = [self._child(name, child) for name, child in table.children.items()]
        if self.faults or own is None or peer is None or lifetimes is None:
            return None, self.faults
        try:
            connection = Connection(
                name=self.name,
                local_identity=table.local.identity,
                own=own,
                local_address=table.local.address,
                peer=peer,
                children=tuple(child for child in children if child is not None),
                proposals=table.proposals or DEFAULT_IKE_PROPOSALS,
                lifetimes=lifetimes,
                retry=table.retry,
                fragmentation=table.fragmentation,
                force_encapsulation=table.force_encapsulation,
                outer_icmp=OuterIcmp(table.outer_icmp),
                group=table.group,
                order=table.order,
            )
        except ValueError as error:
            self._tell((), error)
            return None, self.faults
        return connection, []

    def _own(self, local: LocalTable) -> Own | None:
        psk = local.psk or self.table.psk
        if (local.key is None) == (psk is None):
            self.faults.append((("local",), "one of key and psk must be there, and only one"))
            return None
        try:
            if psk is not None:
                if local.certificates:
                    self.faults.append((("local", "certificates"), "they go with key, not with psk"))
                return self.files.psk(self._path(psk))
        except ValueError as error:
            self._tell(("local", "psk") if local.psk else ("psk",), error)
            return None
        return self._own_key(local)

    def _own_key(self, local: LocalTable) -> PrivateKey | None:
        try:
            key = self.files.private_key(self._path(local.key or ""))
        except ValueError as error:
            self._tell(("local", "key"), error)
            return None
        try:
            chain = self.files.chain(self._path(name) for name in local.certificates)
            if chain and spki_of(subject_key(chain[0])) != self.files.public_keys[key.name]:
                raise ValueError(f"the first certificate is of another key than {local.key}")
            if chain:
                _check_names(chain[0], local.identity)
        except ValueError as error:
            self._tell(("local", "certificates"), error)
            return None
        return PrivateKey(key.name, chain)

    def _peer(self, table: PeerTable) -> Peer | None:
        credential = self._credential(table)
        if credential is None:
            return None
        try:
            return Peer(addresses=table.addresses, identity=table.identity, credential=credential)
        except ValueError as error:
            self._tell(("peer",), error)
            return None

    def _credential(self, table: PeerTable) -> PeerCredential | None:
        psk = table.psk or self.table.psk
        given = [
            word
            for word, value in (
                ("psk", psk),
                ("key", table.key),
                ("key-file", table.key_file),
                ("authorities", table.authorities),
            )
            if value
        ]
        if len(given) != 1:
            came = " and ".join(given) or "none"
            self.faults.append((("peer",), f"one of psk, key, key-file and authorities must be there; {came} came"))
            return None
        try:
            if psk:
                return self.files.psk(self._path(psk))
            if table.key:
                return RawKey(table.key)
            if table.key_file:
                return self.files.public_key(self._path(table.key_file))
            return Authority(self.files.chain(self._path(name) for name in table.authorities))
        except ValueError as error:
            self._tell(("psk",) if given[0] == "psk" and not table.psk else ("peer", given[0]), error)
            return None

    def _ike_lifetimes(self) -> IkeLifetimes | None:
        table, default = self.table.lifetimes, IkeLifetimes()
        rekey_after, hard = _times(table.rekey_after, table.hard, default.rekey_after, default.hard)
        try:
            return IkeLifetimes(
                rekey_after=rekey_after, hard=hard, jitter=table.jitter, liveness_after=table.liveness_after
            )
        except ValueError as error:
            self._tell(("lifetimes",), error)
            return None

    def _child(self, name: str, table: ChildTable) -> Child | None:
        path: KeyPath = ("children", name)
        lifetimes, default = table.lifetimes, ChildLifetimes()
        rekey_after, hard = _times(lifetimes.rekey_after, lifetimes.hard, default.rekey_after, default.hard)
        try:
            limits = ChildLifetimes(
                rekey_after=rekey_after,
                hard=hard,
                jitter=lifetimes.jitter,
                rekey_octets=lifetimes.rekey_octets,
                hard_octets=lifetimes.hard_octets,
                rekey_packets=lifetimes.rekey_packets,
                hard_packets=lifetimes.hard_packets,
            )
        except ValueError as error:
            self._tell((*path, "lifetimes"), error)
            return None
        try:
            return Child(
                name=name,
                local=table.local,
                remote=table.remote,
                proposals=table.proposals or DEFAULT_ESP_PROPOSALS,
                start=Start(table.start or self._default_start()),
                lifetimes=limits,
                priority=table.priority,
                replay_window=table.replay_window,
                path_mtu=table.path_mtu,
                mtu_policy=MtuPolicy(table.mtu_policy),
                df=None if table.df is None else Df(table.df),
                mss=MssRule(table.mss) if isinstance(table.mss, str) else table.mss,
                copy_dscp=table.copy_dscp,
                icmp_check=IcmpCheck(table.icmp_check),
                tunnel_address=table.tunnel_address,
                aggfrag=Aggfrag(table.aggfrag),
            )
        except ValueError as error:
            self._tell(path, error)
            return None

    def _default_start(self) -> str:
        peer = self.table.peer
        is_reachable = bool(peer.addresses) and peer.identity.kind is PatternKind.EXACT
        return "auto" if is_reachable else "none"

    def _path(self, name: str) -> Path:
        return self.directory / name

    def _tell(self, path: KeyPath, error: ValueError) -> None:
        """Note a complaint; where it begins with an option of this table, at the line of that option."""
        first, colon, rest = str(error).partition(": ")
        option = first.replace("_", "-")
        if colon and option.replace("-", "").isalpha() and option.islower():
            self.faults.append(((*path, option), rest))
        elif first.startswith('child "') and colon:
            option, _, rest = rest.partition(": ")
            self.faults.append((("children", first[len('child "') : -1], option), rest))
        else:
            self.faults.append((path, str(error)))


def _times(soft: float | None, hard: float | None, default_soft: float, default_hard: float) -> tuple[float, float]:
    """Both times; where only the first is given, the second keeps the distance it has by default."""
    if soft is None:
        return default_soft if hard is None or hard > default_soft else hard * default_soft / default_hard, (
            default_hard if hard is None else hard
        )
    return soft, soft * default_hard / default_soft if hard is None else hard


def _check_names(certificate: bytes, identity: Identity) -> None:
    """No peer would accept a certificate that does not name who we say we are."""
    try:
        check_identity(certificate, identity)
    except CryptoError as error:
        raise ValueError(str(error)) from None


def _read(file: Path, limit: int, *, owners: frozenset[int] = frozenset()) -> bytes:
    """Octets of a regular file. With `owners` it is a secret: one that others may read or own is refused (as ssh does)."""
    try:
        # Without O_NONBLOCK a named pipe in the place of a key would hold the daemon for ever.
        with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"{file} is not a file")
            if owners:
                _check_owner(file, status, owners)
            octets = read_octets(stream, status.st_size, limit)
    except OSError as error:
        raise ValueError(f"{file} {unreadable(file, error)}") from None
    if len(octets) > limit:
        raise ValueError(f"{file}: at most {limit} octets, more came; is it the file that was meant?")
    return octets


def read_octets(stream: BinaryIO, size: int, limit: int) -> bytes:
    """All octets of a file that is `size` long as far as is known, or one more than `limit`."""
    # Asked for so many octets, the library makes room for as many first: not for the limit, which no file comes near.
    octets = stream.read(min(size, limit) + 1)
    return octets if len(octets) <= size else octets + stream.read(limit + 1 - len(octets))


def unreadable(file: Path, error: OSError) -> str:
    """Why a file could not be read; where its rights are the reason, who could not, and what lets them."""
    if not isinstance(error, PermissionError):
        return f"cannot be read: {error.strerror}"
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    return f"cannot be read by user {user}: {error.strerror}; chown {user} {file}"


def _check_owner(file: Path, status: os.stat_result, owners: frozenset[int]) -> None:
    if status.st_mode & 0o077:
        raise ValueError(f"{file} can be read by others (mode {status.st_mode & 0o777:03o}); chmod 600 {file}")
    if status.st_uid not in owners:
        raise ValueError(
            f"{file} belongs to user {status.st_uid}, not to root, to us or to the owner of the configuration; chown root {file}"
        )
