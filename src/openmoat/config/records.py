"""What one table of a file gives: settings, or a connection with the key files that it names. All errors are told together."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from openmoat.config.key_files import Files
from openmoat.config.kinds import MAX_REMEMBERED_TEXTS
from openmoat.config.options import (
    CHILD,
    CHILD_LIFETIMES,
    CONNECTION,
    DAEMON,
    ENGINE,
    EVERYWHERE,
    IKE_LIFETIMES,
    LOCAL,
    PEER,
    SOMEBODY,
)
from openmoat.config.rows import Read, Table
from openmoat.crypto.identities import IdentityPattern, PatternKind
from openmoat.crypto.keys import spki_of
from openmoat.errors import CryptoError, FieldError, KeyPath
from openmoat.model.connection import (
    Authority,
    Child,
    ChildLifetimes,
    Connection,
    IkeLifetimes,
    Own,
    Peer,
    PeerCredential,
    PrivateKey,
    Psk,
    RawKey,
    Start,
)
from openmoat.model.proposals import DEFAULT_ESP_PROPOSALS
from openmoat.model.settings import EngineSettings, Settings

__all__ = ["build_connection", "build_settings", "default_start"]

Lifetimes = TypeVar("Lifetimes", IkeLifetimes, ChildLifetimes)
CREDENTIALS = ("psk", "key", "key-file", "ca-certificates")
"""Options of a peer of which exactly one is needed."""
NO_KEY = Psk("")
NO_PEER = Peer(
    addresses=("somebody.invalid",), identity=IdentityPattern(PatternKind.EXACT, SOMEBODY), credential=NO_KEY
)
"""What stands in the place of parts that are wrong, so that the rest is checked; what is made with it is thrown away."""
USUAL_IKE, USUAL_CHILD = IkeLifetimes(), ChildLifetimes()


def build_settings(daemon: object, engine: object, errors: list[FieldError]) -> Settings:
    """The settings of both tables; errors are added to `errors`."""
    read, threads = DAEMON.read(daemon, ("daemon",), errors), ENGINE.read(engine, ("engine",), errors)
    inner = ENGINE.build(threads, errors) or EngineSettings()
    return DAEMON.build(read, errors, engine=inner) or Settings()


def build_connection(
    path: KeyPath, tree: object, directory: Path, files: Files, errors: list[FieldError]
) -> Connection | None:
    """The connection of the table at `path`, or None and errors in `errors`. Files are relative to `directory`."""
    before = len(errors)
    connection = _Builder(CONNECTION.read(tree, path, errors), directory, files, errors).build()
    return connection if len(errors) == before else None


def default_start(peer: Peer) -> Start:
    """When we initiate a child whose table does not say it."""
    is_reachable = bool(peer.addresses) and peer.identity.kind is PatternKind.EXACT
    return Start.AUTO if is_reachable else Start.NONE


class _Builder:
    """Goes on after an error, so that all are found."""

    def __init__(self, read: Read, directory: Path, files: Files, errors: list[FieldError]) -> None:
        self.read, self.directory, self.files, self.errors = read, directory, files, errors
        self.local: Read = read.get("local")
        self.remote: Read = read.get("peer")
        self.shared_psk: Psk | None = None

    def build(self) -> Connection | None:
        own = self._own() or NO_KEY
        peer = PEER.build(self.remote, self.errors, credential=self._credential() or NO_KEY) or NO_PEER
        lifetimes = self._lifetimes(IKE_LIFETIMES, self.read.get("lifetimes")) or USUAL_IKE
        tables: Mapping[str, Read] = self.read.get("children") or {}
        children = [self._child(name, table, peer) for name, table in tables.items()]
        return CONNECTION.build(
            self.read,
            self.errors,
            name=str(self.read.path[-1]),
            peer=peer,
            own=own,
            lifetimes=lifetimes,
            children=tuple(children) or (_no_child("none"),),
            **LOCAL.fields(self.local),
        )

    def _own(self) -> Own | None:
        local, shared = self.local, self.read
        has_psk = local.has("psk") or shared.has("psk")
        if local.has("key") is has_psk:
            if not {"key", "psk"} & (local.wrong | self.read.wrong):
                place = (*local.path, "key") if has_psk else local.path
                self._tell(place, "exactly one of key and psk is needed")
            return None
        if not has_psk:
            return self._own_key()
        if local.has("certificates"):
            self._tell((*local.path, "certificates"), "they go with key, not with psk")
        return self._psk(local)

    def _psk(self, end: Read) -> Psk | None:
        """The pre-shared key of one end, or that of both."""
        read = end if end.has("psk") else self.read
        name = read.get("psk")
        if name is None or (read is self.read and self.shared_psk):
            return self.shared_psk
        try:
            psk = self.files.psk(_file(self.directory, name))
        except ValueError as error:
            self._tell((*read.path, "psk"), error)
            return None
        if read is self.read:
            self.shared_psk = psk
        return psk

    def _own_key(self) -> PrivateKey | None:
        key: PrivateKey | None = None
        chain: tuple[bytes, ...] = ()
        try:
            if name := self.local.get("key"):
                key = self.files.private_key(_file(self.directory, name))
        except ValueError as error:
            self._tell((*self.local.path, "key"), error)
        try:
            chain = self._chain(self.local.get("certificates") or ())
            if chain:
                self._check_certificate(chain[0], key)
        except (ValueError, CryptoError) as error:
            self._tell((*self.local.path, "certificates"), error)
        return PrivateKey(key.name, chain) if key else None

    def _check_certificate(self, certificate: bytes, key: PrivateKey | None) -> None:
        from openmoat.crypto.x509 import check_identity, subject_key  # with certificates only: it takes 2 MB

        if key and spki_of(subject_key(certificate)) != self.files.public_keys[key.name]:
            raise ValueError(f"the first certificate is of another key than {self.local.get('key')}")
        if identity := self.local.get("identity"):
            check_identity(certificate, identity)  # no peer would accept one that does not name who we say we are

    def _credential(self) -> PeerCredential | None:
        peer = self.remote
        given = [name for name in CREDENTIALS if peer.has(name) or (name == "psk" and self.read.has("psk"))]
        if len(given) != 1:
            if not set(given) & (peer.wrong | self.read.wrong):
                names = f"{', '.join(CREDENTIALS[:-1])} and {CREDENTIALS[-1]}"
                found = f"{' and '.join(given)} are given" if given else "none is given"
                place = (*peer.path, given[-1]) if given and peer.has(given[-1]) else peer.path
                self._tell(place, f"exactly one of {names} is needed; {found}")
            return None
        if given == ["psk"]:
            return self._psk(peer)
        try:
            if spki := peer.get("key"):
                return RawKey(spki)
            if name := peer.get("key-file"):
                return self.files.public_key(_file(self.directory, name))
            if names := peer.get("ca-certificates"):
                return Authority(self._chain(names))
        except ValueError as error:
            self._tell((*peer.path, given[0]), error)
        return None

    def _chain(self, names: Iterable[str]) -> tuple[bytes, ...]:
        return self.files.chain(_file(self.directory, name) for name in names)

    def _child(self, name: str, read: Read, peer: Peer) -> Child:
        limits = self._lifetimes(CHILD_LIFETIMES, read.get("lifetimes")) or USUAL_CHILD
        start = read.get("start") or (Start.NONE if "start" in read.wrong else default_start(peer))
        fields = {**CHILD.fields(read), "start": start}
        return CHILD.build_from(fields, read, self.errors, name=name, lifetimes=limits) or _no_child(name)

    def _lifetimes(self, table: Table[Lifetimes], read: Read) -> Lifetimes | None:
        """None where none are given. Where only one of two times is, the other keeps its share of it that it has by default."""
        if not read.values and not read.wrong:
            return None
        fields = table.fields(read)
        soft, hard = table.default(table.options[0]), table.default(table.options[1])
        if "hard" in fields and not read.has("rekey-after") and fields["hard"]:
            fields["rekey_after"] = min(soft, fields["hard"] * soft / hard)
        elif "rekey_after" in fields and not read.has("hard"):
            fields["hard"] = fields["rekey_after"] * hard / soft
        return table.build_from(fields, read, self.errors)

    def _tell(self, path: KeyPath, error: Exception | str) -> None:
        self.errors.append(FieldError(path, str(error)))


def _no_child(name: str) -> Child:
    return Child(name=name, local=EVERYWHERE, remote=EVERYWHERE, proposals=DEFAULT_ESP_PROPOSALS, start=Start.NONE)


@lru_cache(maxsize=MAX_REMEMBERED_TEXTS)
def _file(directory: Path, name: str) -> Path:
    """A file that a configuration names; thousands of connections name the same one."""
    return directory / name
