"""What the daemon does for callers of the control socket. Every error is a `ControlError` with what to do about it."""

from collections.abc import AsyncIterator, Iterator

from openmoat import __version__
from openmoat.control.messages import ConnectionStatus, Done, Entry, ErrorCode, Log, Reloaded, Status, Version
from openmoat.control.remedies import Remedy
from openmoat.crypto.identities import Identity
from openmoat.daemon.core.verbs import Verbs
from openmoat.daemon.host.path_sizes import PathSizes
from openmoat.daemon.peers import Peer, Peers
from openmoat.daemon.reloader import Reloader
from openmoat.daemon.status import overview
from openmoat.daemon.status.journal import Journal
from openmoat.daemon.status.reports import Health, Reports
from openmoat.errors import ControlError, did_you_mean
from openmoat.model.connection import Connection

__all__ = ["Handlers"]


class Handlers:
    """Lives in the daemon's event loop; each call is one step of it."""

    def __init__(
        self,
        *,
        verbs: Verbs,
        reloader: Reloader,
        peers: Peers,
        sizes: PathSizes,
        reports: Reports,
        health: Health,
        journal: Journal,
    ) -> None:
        self._verbs = verbs
        self._reloader = reloader
        self._loaded = reloader.loaded
        self._peers = peers
        self._sizes = sizes
        self._reports = reports
        self._health = health
        self._journal = journal

    def version(self) -> Version:
        """What answers."""
        return Version(version=__version__)

    def status(self) -> Status:
        """The daemon alone: its connections are told by `connections`."""
        return Status(
            version=__version__,
            now=self._reports.wall_clock(),
            since=self._reports.since,
            configuration=str(self._loaded.file),
            device=self._reports.device,
            warnings=self._health.warnings(),
            drops=self._health.drops(self._reports.counts()),
            offloads=self._health.offloads(),
            loop=self._health.loop(),
            unknown_peers=self._reports.unknown_peers(),
        )

    def connections(self) -> Iterator[ConnectionStatus]:
        """All connections, one with each step."""
        return self._reports.connections()

    def connection(self, name: str) -> ConnectionStatus:
        """One, with the explanation of its last failure."""
        return self._reports.connection(self._find(name))

    def up(self, name: str) -> Done:
        """Begin it now; an override by `down` is over."""
        connection = self._find(name)
        if name in self._loaded.conflicts:
            text = self._loaded.conflicts[name]
            raise ControlError(ErrorCode.BUSY, text, f"change the configuration as it says, then: {Remedy.RELOAD}")
        self._verbs.initiate(name)
        if connection.is_template:
            text = f'connection "{name}" is a template: its peers come by themselves'
            raise ControlError(ErrorCode.TEMPLATE, text, "start it at the peer")
        if not connection.peer.addresses:
            return Done(text=f'connection "{name}" waits for its peer, which has no address here', connection=name)
        return Done(text=f'connection "{name}" is being negotiated', connection=name)

    def down(self, name: str, peer: str | None = None) -> Done:
        """End it, or what it has with one peer, and keep that down until `up` or a change of it."""
        connection = self._find(name)
        if peer is not None:
            identity = self._identity(connection, peer)
            if name not in self._loaded.conflicts:
                self._verbs.take_down(name, identity)
            return Done(text=f'peer {identity} of connection "{name}" is down until: moat up {name}', connection=name)
        if name not in self._loaded.conflicts:
            self._verbs.take_down(name)
        return Done(text=f'connection "{name}" is down until: moat up {name}', connection=name)

    def rekey(self, name: str, peer: str | None = None) -> Done:
        """Replace the keys of all its SAs, or of those with one peer. Packets flow on."""
        connection = self._find(name)
        peers = [self._here(connection, peer)] if peer is not None else list(self._peers.of(name))
        count = 0
        for one in peers:
            for ike in list(one.ike_sas):
                self._verbs.rekey_ike(ike)
            for handle in list(one.children):
                self._verbs.rekey_child(handle)
            count += len(one.ike_sas) + len(one.children)
        if not count:
            raise ControlError(
                ErrorCode.BUSY, f'connection "{name}": it has no SAs to rekey', Remedy.STATUS.format(name=name)
            )
        return Done(text=f'connection "{name}": {count} SAs are being rekeyed', connection=name)

    def delete(self, name: str, peer: str) -> Done:
        """Delete all SAs with one peer. It may come back at once, and what is kept up does."""
        one = self._here(self._find(name), peer)
        for ike in list(one.ike_sas):
            self._verbs.delete_ike(ike)
        return Done(text=f'the SAs with peer {one.identity} of connection "{name}" are deleted', connection=name)

    def probe(self, name: str) -> Done:
        """Find out now what the paths to its peers carry."""
        self._find(name)
        begun = sum(self._sizes.look(ike) for peer in self._peers.of(name) for ike in peer.ike_sas)
        if not begun:
            text = f'connection "{name}": nothing can be probed: it is not up, or its sizes are configured'
            raise ControlError(ErrorCode.BUSY, text, Remedy.MTU.format(name=name))
        return Done(text=f'connection "{name}": {begun} paths are being probed', connection=name)

    async def reload(self) -> Reloaded:
        """Read the configuration again and change what has changed."""
        return await self._reloader.reload()

    def log(self, last: int) -> Log:
        """The newest entries of the journal, oldest first."""
        return Log(entries=tuple(overview.entry(line) for line in self._journal.entries()[-last:]))

    async def follow(self) -> AsyncIterator[Entry]:
        """Everything noted from now on; ends where the reader is too slow."""
        queue = self._journal.follow()
        try:
            while (line := await queue.get()) is not None:
                yield overview.entry(line)
        finally:
            self._journal.unfollow(queue)

    def _identity(self, connection: Connection, peer: str) -> Identity:
        """A peer that this connection may have, whether it is here or not."""
        for one in self._peers.of(connection.name):
            if str(one.identity) == peer:
                return one.identity
        try:
            identity = Identity.parse(peer)
        except ValueError as error:
            raise ControlError(
                ErrorCode.UNKNOWN_PEER, f"peer: {error}", Remedy.STATUS.format(name=connection.name)
            ) from None
        if not connection.peer.identity.matches(identity):
            text = f'connection "{connection.name}": {identity} is not a peer of {connection.peer.identity}'
            raise ControlError(ErrorCode.UNKNOWN_PEER, text, Remedy.STATUS.format(name=connection.name))
        return identity

    def _here(self, connection: Connection, peer: str) -> Peer:
        """A peer that has SAs now."""
        identity = self._identity(connection, peer)
        found = self._peers.find(connection.name, identity)
        if found is None or not found.ike_sas:
            text = f'connection "{connection.name}": peer {identity} is not here'
            raise ControlError(ErrorCode.UNKNOWN_PEER, text, Remedy.STATUS.format(name=connection.name))
        return found

    def _find(self, name: str) -> Connection:
        connection = self._loaded.find(name)
        if connection is None:
            nearest = did_you_mean(name[:80], self._loaded.configuration.connections)
            text = f'no connection "{name[:80]}"{nearest}'
            raise ControlError(ErrorCode.UNKNOWN_CONNECTION, text, Remedy.LIST)
        return connection
