"""`moatd`: the table of contents of the process. What it is made of, in which order it starts, and how it ends."""

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from openmoat import __version__
from openmoat.config.toml import Configuration, load
from openmoat.daemon.control.access import Policy, open_socket
from openmoat.daemon.control.handlers import Handlers
from openmoat.daemon.control.server import Server
from openmoat.daemon.core.answers import Answers
from openmoat.daemon.core.driver import Driver, boottime
from openmoat.daemon.core.installer import Installer
from openmoat.daemon.core.keyholder import Keyholder
from openmoat.daemon.core.keylog import KeyLog
from openmoat.daemon.host.keeper import HostKeeper
from openmoat.daemon.host.outer_icmp import OuterIcmpReader
from openmoat.daemon.host.path_sizes import PathSizes
from openmoat.daemon.host.policies import Policies
from openmoat.daemon.names.paths import Names, PathFinder
from openmoat.daemon.names.renewal import NameWatch
from openmoat.daemon.reloader import Loaded, Reloader
from openmoat.daemon.status.accounting import Accounting
from openmoat.daemon.status.book import Book
from openmoat.daemon.status.journal import Journal
from openmoat.daemon.status.turns import Turns, WatchedSelector, watch_collections
from openmoat.daemon.watchdog import Watchdog
from openmoat.daemon.worker_threads import WorkerThreads
from openmoat.dataplane.backend import Acquire, Backend, Spi
from openmoat.dataplane.engine_wire import EngineWire
from openmoat.dataplane.userspace import Offloads, UserspaceBackend, open_engine
from openmoat.dataplane.wire import Wire
from openmoat.errors import ConfigError, MoatError
from openmoat.ike.config import IkeConfig
from openmoat.ike.endpoint import Endpoint
from openmoat.ike.events import (
    Answer,
    AskInstall,
    ChildSa,
    ChildSaDown,
    ChildSaUp,
    Event,
    IkeSaDown,
    IkeSaKeys,
    IkeSaUp,
    Question,
)
from openmoat.model.connection import OuterIcmp
from openmoat.model.settings import Settings
from openmoat.mtu.plan import Framing
from openmoat.net import Address
from openmoat.system.capabilities import give_up_the_rest
from openmoat.system.links import InterfaceAddress
from openmoat.system.netlink import Netlink
from openmoat.system.reconcile import OnStop, Reconciler
from openmoat.system.reports import open_reports
from openmoat.system.routes import route_to
from openmoat.system.sockets import open_all
from openmoat.system.steering import suitable_workers

__all__ = ["DEFAULT_CONFIGURATION", "STOP_SECONDS", "Daemon", "main"]

DEFAULT_CONFIGURATION = Path("/etc/openmoat/moat.toml")
STOP_SECONDS = 3.0
"""Patience with peers that do not answer our Deletes when we end in good order."""
STOP_STEP = 0.02
COLLECT_AFTER = (5_000, 5, 50)
"""Thresholds of the garbage collector's generations: almost nothing of a handshake is garbage that only it can find, and
looking through all that lives (generation 2) takes longer the more SAs there are."""

EXIT_FAULT = 1
EXIT_CONFIGURATION = 2

log = logging.getLogger("openmoat.daemon")


class Daemon:
    """Everything between a data plane and a control socket. Made in a running event loop."""

    def __init__(
        self,
        file: Path,
        settings: Settings,
        backend: Backend,
        wire: Wire,
        *,
        reconciler: Reconciler | None = None,
        source_for: Callable[[Address], Address | None],
        random: Callable[[int], bytes] = os.urandom,
        turns: Turns | None = None,
        clock: Callable[[], float] = boottime,
        reports: Sequence[tuple[int, int]] = (),
    ) -> None:
        """`reconciler` is None where nothing of the host is to be touched. `reports`: see `system.sockets.open_reports`."""
        self.settings = settings
        self.journal = Journal(time.time)
        self.book = Book(time.time)
        self.loaded = Loaded()
        self.watchdog = Watchdog()
        self._beside = WorkerThreads()
        self._wire = wire
        self._key_log = KeyLog(Path(settings.key_log)) if settings.key_log else None
        self.sizes = PathSizes(clock)
        policies = Policies(backend.capabilities().rungs, self.sizes.outside)
        self.installer = Installer(backend, policies, Accounting())
        keyholder = Keyholder(self.loaded.find, time.time)
        names = Names(clock)
        self._answers = Answers(
            self.installer, PathFinder(names, source_for), keyholder, self.loaded.find, self._beside
        )
        self.renewal = NameWatch(names, self.loaded.find, self.journal, clock)
        self.core = Endpoint(ike_config(settings, backend), random)
        self.driver = Driver(self.core, wire, self.installer, self._ask, self.journal, clock)
        self.host = (
            HostKeeper(reconciler, settings.device, policies, self._beside, self.journal) if reconciler else None
        )
        self.outer_icmp = OuterIcmpReader(reports, self.installer, self._outer_icmp, self._hint_size, clock)
        self._listen(policies)
        self.desired = self._desired(file, policies, keyholder)
        self.desk = self._desk(turns or Turns())

    def _listen(self, policies: Policies) -> None:
        """Have the parts call back."""
        self.renewal.suspect = self._suspect
        self.driver.on_event = self._hear
        self.driver.on_acquire = self._acquire
        self.driver.on_suspicion = self._suspect_size
        self.driver.on_black_hole = self._shrink
        self.sizes.discovers = policies.discovers
        self.sizes.probe = self._probe_size
        self.sizes.probe_fragments = self._probe_fragments
        self.sizes.carried = self.installer.carried
        self.sizes.proved = self.installer.proved
        self.sizes.on_size = self._resize

    def _desired(self, file: Path, policies: Policies, keyholder: Keyholder) -> Reloader:
        return Reloader(
            file,
            self.loaded,
            policies=policies,
            installer=self.installer,
            keyholder=keyholder,
            book=self.book,
            host=self.host,
            driver=self.driver,
            core=self.core,
            beside=self._beside,
            use_settings=self._use,
        )

    def _desk(self, turns: Turns) -> Handlers:
        return Handlers(
            core=self.core,
            desired=self.desired,
            driver=self.driver,
            installer=self.installer,
            wire=self._wire,
            journal=self.journal,
            book=self.book,
            sizes=self.sizes,
            outer_icmp=self.outer_icmp.counts,
            host=self.host,
            device=self.settings.device,
            turns=turns,
        )

    async def start(self, configuration: Configuration) -> None:
        """Guard first, then load, then listen: until then peers wait, instead of being told that nobody knows them."""
        if self.host is not None:
            self.host.on_addresses = self._heed_addresses
            await self.host.start()
        reloaded = await self.desired.bring_about(configuration)
        self.sizes.later = self.renewal.later = self.installer.later = asyncio.get_running_loop().call_later
        self.driver.start()
        self.outer_icmp.start()
        for name, why in reloaded.refused.items():
            self.journal.note("connection-refused", logging.ERROR, why, {"conn": name})
        self.journal.note(
            "started", logging.INFO, f"moatd {__version__}; connections: {len(configuration.connections)}"
        )

    async def run(self, listener: socket.socket, should_stop: asyncio.Event) -> None:
        """Serve until `should_stop`, then end in good order: SAs are deleted, the host stays guarded."""
        server = Server(self.desk, listener, Policy.of(self.settings.control_group, self.settings.control_read_group))
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(server.run()), tasks.create_task(self.watchdog.run())]
            if self.host is not None:
                running.append(tasks.create_task(self.host.run()))
            self.watchdog.tell("READY=1")
            await should_stop.wait()
            self.watchdog.tell("STOPPING=1")
            # Before the tasks are cancelled: what looks after the host must not be cut off while a thread works for it.
            await self.stop()
            for task in running:
                task.cancel()

    async def stop(self) -> None:
        """Delete all SAs, with some patience; then close what was opened."""
        self.journal.note("stopping", logging.INFO, "moatd ends")
        self.core.close(self.driver.clock())
        self.driver.flush()
        for _ in range(int(STOP_SECONDS / STOP_STEP)):
            if self.core.is_idle:
                break
            await asyncio.sleep(STOP_STEP)
        self.driver.stop()
        self.outer_icmp.stop()
        self._answers.close()
        self.renewal.close()
        if self.host is not None:
            await self.host.stop(OnStop(self.settings.on_stop.value))
        self.installer.close()
        self.installer.backend.close()
        self._beside.close()
        if self._key_log is not None:
            self._key_log.close()

    async def reload(self) -> None:
        """By SIGHUP: faults go to the journal."""
        try:
            reloaded = await self.desired.reload()
        except MoatError as error:
            self.journal.note("reload-refused", logging.ERROR, f"nothing was changed: {error}")
            return
        text = f"reload: {len(reloaded.added)} added, {len(reloaded.removed)} removed, {len(reloaded.changed)} changed"
        self.journal.note("reloaded", logging.INFO, text)

    def _hear(self, event: Event) -> None:
        self.book.hear(event)
        match event:
            case IkeSaUp(ike=ike, replaces=replaces):
                self._wire.know_spis([ike], [])
                if replaces is not None:
                    self.installer.inherit(replaces, ike)
            case IkeSaDown(ike=ike):
                self._wire.know_spis([], [ike])
            case ChildSaUp() | ChildSaDown() if self.host is not None:
                self.host.refresh()
            case IkeSaKeys() if self._key_log is not None:
                self._key_log.write(event)
            case _:
                pass
        self.sizes.hear(event)
        self.renewal.hear(event)

    def _suspect(self, ike: int) -> None:
        self.core.probe(ike, self.driver.clock())
        self.driver.flush()

    def _probe_size(self, ike: int, size: int) -> None:
        self.core.probe_size(ike, size, self.driver.clock())
        self.driver.flush()

    def _probe_fragments(self, ike: int) -> None:
        self.core.probe_fragments(ike, self.driver.clock())
        self.driver.flush()

    def _suspect_size(self, handle: Spi) -> None:
        """Large packets of a pair seem to be lost. With AGGFRAG smaller ones cost next to nothing."""
        child = self.installer.child(handle)
        if child is not None:
            self.sizes.suspect(child.ike, shrinks=child.aggfrag)

    def _outer_icmp(self, name: str) -> OuterIcmp:
        """What a connection does about ICMP that says an outer packet was too large."""
        connection = self.loaded.find(name)
        return connection.outer_icmp if connection is not None else OuterIcmp.IGNORE

    def _hint_size(self, child: ChildSa, told: int, trusts: bool) -> bool:
        """Such ICMP quotes a packet that this pair has just sent."""
        return self.sizes.hint(child.ike, told, shrinks=child.aggfrag, trusts=trusts)

    def _shrink(self, handle: Spi) -> None:
        """The peer of a pair gets small packets, and none as large as may be."""
        child = self.installer.child(handle)
        if child is not None:
            self.sizes.black_hole(child.ike)

    def _resize(self, ike: int) -> None:
        """Packets of another size reach a peer: the engine and the routes learn it."""
        self.installer.resize(ike)
        if self.host is not None:
            self.host.refresh()

    def _heed_addresses(self, rows: tuple[InterfaceAddress, ...]) -> None:
        """ICMP errors come from others than before, and IKE SAs cannot be reached where we are no more; what is kept up is
        negotiated anew from where we are.
        """
        self.installer.readdress(rows)
        addresses = {row.address for row in rows}
        now = self.driver.clock()
        for sa in self.core.ike_sas():
            if sa.path.local.address not in addresses:
                self.core.delete_ike(sa.ike, now)
        self.driver.flush()

    def _acquire(self, acquire: Acquire) -> None:
        """The first packet of a trapping policy: its child is wanted now."""
        place = self.desired.policy_child(acquire.policy)
        if place is not None:
            self.core.handle_acquire(*place, self.driver.clock())
            self.driver.flush()

    def _ask(self, question: Question, reply: Callable[[Answer], None]) -> None:
        if isinstance(question, AskInstall) and self._key_log is not None:
            self._key_log.write_child(question.child, question.keys)
        self._answers.ask(question, reply)

    def _use(self, settings: Settings) -> None:
        """Settings that need no restart."""
        logging.getLogger("openmoat").setLevel(settings.log_level.upper())
        key_log = KeyLog(Path(settings.key_log)) if settings.key_log else None
        if self._key_log is not None:
            self._key_log.close()
        self._key_log = key_log
        self.core.reveal_keys(bool(settings.key_log))


def ike_config(settings: Settings, backend: Backend) -> IkeConfig:
    """Settings of the core: nothing is proposed that the backend cannot keep."""
    capabilities = backend.capabilities()
    return IkeConfig(
        esp_suites=capabilities.suites,
        aggfrag=Framing.AGGFRAG in capabilities.framings,
        cookie_threshold=settings.cookie_threshold,
        max_half_open=settings.max_half_open,
        fragment_size=settings.fragment_size,
        reveal_keys=bool(settings.key_log),
    )


def source_for(address: Address) -> Address | None:
    """The address with which the kernel would send outer packets there."""
    with Netlink() as netlink:
        return route_to(netlink, address)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT. Exit code 2: the configuration has faults; 1: the host refused something."""
    options = parse_arguments(arguments)
    set_up_logging("info")
    gc.set_threshold(*COLLECT_AFTER)  # before anything is loaded: almost nothing of that is garbage either
    try:
        configuration = load(options.config)
        set_up_logging(configuration.settings.log_level)
        give_up_the_rest()
        turns = Turns()
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(WatchedSelector(turns))) as runner:
            runner.run(serve(options.config, configuration, turns))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(EXIT_CONFIGURATION) from None
    except MoatError as error:
        log.error("%s", error)
        raise SystemExit(EXIT_FAULT) from None


async def serve(file: Path, configuration: Configuration, turns: Turns) -> None:
    """Open what is needed, and run. The control socket is there once the guard stands, and not before."""
    settings = configuration.settings
    data_plane = open_data_plane(settings)
    reports = open_reports()
    daemon = Daemon(
        file, settings, *data_plane, reconciler=Reconciler(), source_for=source_for, turns=turns, reports=reports
    )
    should_stop = asyncio.Event()
    on_signals(daemon, should_stop)
    await daemon.start(configuration)
    # What was loaded stays: no collection need ever look at it again.
    gc.collect()
    gc.freeze()
    await asyncio.sleep(0)  # the turn of the collection is over: what is measured begins here
    turns.reset()
    place = Path(settings.control_socket)
    try:
        listener = open_socket(place, settings.control_group, has_readers=bool(settings.control_read_group))
    except MoatError:
        await daemon.stop()
        raise
    with contextlib.closing(listener), contextlib.ExitStack() as opened:
        opened.callback(place.unlink, missing_ok=True)
        opened.callback(watch_collections(turns))
        await daemon.run(listener, should_stop)


def on_signals(daemon: Daemon, should_stop: asyncio.Event) -> None:
    """SIGTERM and SIGINT end the daemon in good order, SIGHUP makes it read its configuration again."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = asyncio.ensure_future(daemon.reload())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, should_stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="moatd", description="IPsec gateway daemon; talk to it with: moat")
    parser.add_argument(
        "--config",
        type=Path,
        default=DEFAULT_CONFIGURATION,
        metavar="FILE",
        help="configuration (default: %(default)s)",
    )
    parser.add_argument("--version", action="version", version=f"moatd {__version__}")
    return parser.parse_args(arguments)


def set_up_logging(level: str) -> None:
    """Lines to standard error; under systemd with the priority in front, where it reads it from."""
    words = {logging.ERROR: "<3>", logging.WARNING: "<4>", logging.INFO: "<6>", logging.DEBUG: "<7>"}
    is_journal = "JOURNAL_STREAM" in os.environ

    class Formatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            line = super().format(record)
            return words.get(record.levelno, "<5>") + line if is_journal else line

    handler = logging.StreamHandler()
    form = "%(message)s" if is_journal else "%(asctime)s %(levelname)s %(message)s"
    handler.setFormatter(Formatter(form))
    root = logging.getLogger("openmoat")
    root.handlers = [handler]
    root.propagate = False
    root.setLevel(level.upper())


def open_data_plane(settings: Settings) -> tuple[Backend, Wire]:
    """The packet engine over a TUN device and the outer sockets; it keeps duplicates of the descriptors."""
    wanted = asdict(settings.engine)
    workers = wanted.pop("workers")
    descriptors = open_all(settings.device, queues=suitable_workers() if workers == "auto" else workers)
    offloads = Offloads(**wanted)
    try:
        engine = open_engine(tun=descriptors.tun, udp=descriptors.udp, raw=descriptors.raw, offloads=offloads)
    finally:
        descriptors.close()
    return UserspaceBackend(engine), EngineWire(engine)


if __name__ == "__main__":
    main()
