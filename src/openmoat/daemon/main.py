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
from dataclasses import asdict, dataclass, field
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
from openmoat.daemon.core.keylog import KeySink
from openmoat.daemon.core.verbs import Verbs
from openmoat.daemon.distribution import Distribution
from openmoat.daemon.host.keeper import HostKeeper
from openmoat.daemon.host.outer_icmp import OuterIcmpReader
from openmoat.daemon.host.path_sizes import PathSizes
from openmoat.daemon.host.policies import Policies
from openmoat.daemon.host.switches import Switches
from openmoat.daemon.names.paths import Names, PathFinder
from openmoat.daemon.names.renewal import NameWatch
from openmoat.daemon.peers import Peers
from openmoat.daemon.reloader import Loaded, Reloader
from openmoat.daemon.status.journal import Journal
from openmoat.daemon.status.reports import Health, Reports
from openmoat.daemon.status.turns import Turns, WatchedSelector, watch_collections
from openmoat.daemon.watchdog import Watchdog
from openmoat.daemon.worker_threads import WorkerThreads
from openmoat.dataplane.backend import Backend
from openmoat.dataplane.engine_wire import EngineWire
from openmoat.dataplane.userspace import Offloads, UserspaceBackend, open_engine
from openmoat.dataplane.wire import Wire
from openmoat.errors import ConfigError, MoatError
from openmoat.ike.config import IkeConfig
from openmoat.ike.endpoint import Endpoint
from openmoat.model.settings import Settings
from openmoat.mtu.plan import Framing
from openmoat.net import Address
from openmoat.places import CONFIGURATION
from openmoat.system.capabilities import give_up_the_rest
from openmoat.system.netlink import Netlink
from openmoat.system.reconcile import Reconciler
from openmoat.system.reports import open_reports
from openmoat.system.routes import route_to
from openmoat.system.sockets import open_all
from openmoat.system.steering import suitable_workers

__all__ = ["DEFAULT_CONFIGURATION", "STOP_SECONDS", "Daemon", "Options", "main"]

DEFAULT_CONFIGURATION = Path(CONFIGURATION)
STOP_SECONDS = 3.0
"""Patience with peers that do not answer our Deletes when we end in good order."""
STOP_STEP = 0.02
COLLECT_AFTER = (5_000, 5, 50)
"""Thresholds of the garbage collector's generations: almost nothing of a handshake is garbage that only it can find, and
looking through all that lives (generation 2) takes longer the more SAs there are."""

EXIT_FAULT = 1
EXIT_CONFIGURATION = 2

log = logging.getLogger("openmoat.daemon")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a daemon has of the host, of time and of randomness."""

    reconciler: Reconciler | None = None
    """None where nothing of the host is to be touched."""
    reports: Sequence[tuple[int, int]] = ()
    """Sockets that read ICMP errors: see `system.sockets.open_reports`."""
    turns: Turns = field(default_factory=Turns)
    clock: Callable[[], float] = boottime
    random: Callable[[int], bytes] = os.urandom


class Daemon:
    """Everything between a data plane and a control socket. Made in a running event loop."""

    def __init__(
        self,
        file: Path,
        settings: Settings,
        backend: Backend,
        wire: Wire,
        *,
        source_for: Callable[[Address], Address | None],
        options: Options | None = None,
    ) -> None:
        options = options or Options()
        clock, later = options.clock, asyncio.get_running_loop().call_later
        self._settings, self._wire = settings, wire
        self._watchdog = Watchdog()
        self._threads = WorkerThreads()
        # What is known.
        self.loaded = Loaded(file)
        self.journal = Journal(time.time)
        self.peers = Peers(time.time)
        # The core, and what it asks.
        self.core = Endpoint(ike_config(settings, backend), options.random)
        self.verbs = Verbs(self.core, clock, self._flush)
        self._policies = Policies(backend.capabilities().rungs, self.peers.path_mtu)
        self._switches = Switches(self._policies.spd, self.journal, time.time)
        self.installer = Installer(backend, self._policies, self._switches, self.peers, later)
        self._keys = KeySink(settings.key_log)
        self._keyholder = Keyholder(self.loaded.find, time.time)
        names = Names(clock)
        finder = PathFinder(names, source_for)
        self._answers = Answers(self.installer, finder, self._keyholder, self.loaded.find, self._threads, self._keys)
        # What follows its events.
        self._sizes = PathSizes(self.peers, self.verbs, self.installer, self._policies.discovers, clock, later)
        self._renewal = NameWatch(names, self.loaded.find, self.peers, self.verbs.probe, self.journal, later)
        distribution = self._distribution()
        self.driver = Driver(self.core, wire, self.installer, self._answers.ask, distribution, clock)
        # The host, and the ICMP errors that reach it.
        self._host = self._keeper(options.reconciler, distribution)
        self._outer_icmp = OuterIcmpReader(
            options.reports, self.peers, self.installer, self.loaded.outer_icmp, self._sizes.handle_hint, clock
        )
        # What changes all of this, and tells of it.
        self.reloader = self._reloader()
        self.handlers = self._handlers(options.turns)

    def _distribution(self) -> Distribution:
        return Distribution(
            journal=self.journal,
            peers=self.peers,
            wire=self._wire,
            sizes=self._sizes,
            renewal=self._renewal,
            keys=self._keys,
            installer=self.installer,
            policies=self._policies,
            verbs=self.verbs,
        )

    def _keeper(self, reconciler: Reconciler | None, distribution: Distribution) -> HostKeeper | None:
        if reconciler is None:
            return None
        device = self._settings.device
        return HostKeeper(reconciler, device, self._policies.prefixes, self._threads, self.journal, distribution)

    def _reloader(self) -> Reloader:
        return Reloader(
            self.loaded,
            verbs=self.verbs,
            installer=self.installer,
            peers=self.peers,
            host=self._host,
            keyholder=self._keyholder,
            keys=self._keys,
            threads=self._threads,
        )

    def _handlers(self, turns: Turns) -> Handlers:
        reports = Reports(
            core=self.core,
            loaded=self.loaded,
            peers=self.peers,
            installer=self.installer,
            switches=self._switches,
            device=self._settings.device,
            clock=self.driver.clock,
        )
        health = Health(
            installer=self.installer,
            wire=self._wire,
            journal=self.journal,
            driver=self.driver,
            outer_icmp=self._outer_icmp.counts,
            host=self._host,
            turns=turns,
        )
        return Handlers(
            verbs=self.verbs,
            reloader=self.reloader,
            peers=self.peers,
            sizes=self._sizes,
            reports=reports,
            health=health,
            journal=self.journal,
        )

    def _flush(self) -> None:
        """Verbs are made before the driver that carries out what comes of them."""
        self.driver.flush()

    async def start(self, configuration: Configuration) -> None:
        """Guard first, then load, then listen: until then peers wait, instead of being told that nobody knows them."""
        if self._host is not None:
            await self._host.start()
        reloaded = await self.reloader.apply(configuration)
        self.driver.start()
        self._outer_icmp.start()
        for name, why in reloaded.refused.items():
            self.journal.note("connection-refused", logging.ERROR, why, {"conn": name})
        self.journal.note(
            "started", logging.INFO, f"moatd {__version__}; connections: {len(configuration.connections)}"
        )

    async def run(self, listener: socket.socket, should_stop: asyncio.Event) -> None:
        """Serve until `should_stop`, then end in good order: SAs are deleted, the host stays guarded."""
        policy = Policy.of(self._settings.control_group, self._settings.control_read_group)
        server = Server(self.handlers, listener, policy)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(server.run()), tasks.create_task(self._watchdog.run())]
            if self._host is not None:
                running.append(tasks.create_task(self._host.run()))
            self._watchdog.tell("READY=1")
            await should_stop.wait()
            self._watchdog.tell("STOPPING=1")
            # Before the tasks are cancelled: what looks after the host must not be cut off while a thread works for it.
            await self.stop()
            for task in running:
                task.cancel()

    async def stop(self) -> None:
        """Delete all SAs, with some patience; then close what was opened."""
        self.journal.note("stopping", logging.INFO, "moatd ends")
        self.verbs.close()
        for _ in range(int(STOP_SECONDS / STOP_STEP)):
            if self.core.is_idle:
                break
            await asyncio.sleep(STOP_STEP)
        self.driver.stop()
        self._outer_icmp.stop()
        self._answers.close()
        self._renewal.close()
        if self._host is not None:
            await self._host.stop(self._settings.on_stop)
        self.installer.close()
        self.installer.backend.close()
        self._threads.close()
        self._keys.close()

    async def reload(self) -> None:
        """By SIGHUP: errors go to the journal."""
        try:
            reloaded = await self.reloader.reload()
        except MoatError as error:
            self.journal.note("reload-refused", logging.ERROR, f"nothing was changed: {error}")
            return
        text = f"reload: {len(reloaded.added)} added, {len(reloaded.removed)} removed, {len(reloaded.changed)} changed"
        self.journal.note("reloaded", logging.INFO, text)


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
    """Run until SIGTERM or SIGINT. Exit code 2: the configuration has errors; 1: the host refused something."""
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
    options = Options(reconciler=Reconciler(), turns=turns, reports=reports)
    daemon = Daemon(file, settings, *data_plane, source_for=source_for, options=options)
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
