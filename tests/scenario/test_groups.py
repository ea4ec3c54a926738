"""Whole daemons in virtual time, one with two portals as alternatives: what becomes of packets when the first one goes."""

import asyncio
import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from openmoat.config.toml import load
from openmoat.control.messages import ConnectionState
from openmoat.control.reasons import Reason
from openmoat.daemon.main import Daemon, Options
from openmoat.dataplane.backend import SaFlag
from openmoat.dataplane.memory import MemoryBackend, MemoryWire
from openmoat.dataplane.wire import Datagram
from openmoat.net import Address
from openmoat.net import Path as NetPath
from scenario.virtual import run_virtual

ADDRESSES: dict[str, Address] = {
    name: ipaddress.ip_address(f"192.0.2.{number}") for number, name in enumerate(("home", "gate-a", "gate-b"), 1)
}
LATENCY = 0.01
INTERVAL = 0.05
"""Seconds between two packets of home, each of which is answered."""
LIVENESS = 3.0
SUSPICION = 4.1
"""Until a request has been sent five times: half a second first, and each wait half as long again as the one before."""
RETRANSMISSION = 25.0
"""Until a request counts as lost: eight times, each half as long again as the one before, from half a second on."""
RETURN = 40.0
"""Until a portal that is back is in use again: the longest back-off, and an attempt that may have begun just before."""
RECORD = """
[connections.{name}]
psk = "secret.psk"
lifetimes.liveness-after = "{liveness:g}s"
{group}
[connections.{name}.local]
identity = "{own}.example"
[connections.{name}.peer]
addresses = ["{address}"]
identity = "{peer}.example"
[connections.{name}.children.lan]
local = "{local}"
remote = "{remote}"
start = "{start}"
"""


def record(own: str, peer: str, group: str = "") -> str:
    is_home = own == "home"
    return RECORD.format(
        name=peer,
        group=group,
        liveness=LIVENESS,
        own=own,
        peer=peer,
        address=ADDRESSES[peer],
        local="10.1.0.0/24" if is_home else "10.2.0.0/16",
        remote="10.2.0.0/16" if is_home else "10.1.0.0/24",
        start="auto" if is_home else "none",
    )


class Host:
    """One daemon over a data plane in memory."""

    def __init__(self, name: str, directory: Path, *records: str) -> None:
        self.name = name
        self.file = directory / f"{name}.toml"
        self.file.write_text("".join(records))
        self.is_reached = True

    async def start(self) -> None:
        """With nothing of what it knew before."""
        self.backend, self.wire = MemoryBackend(), MemoryWire()
        configuration, own = load(self.file), ADDRESSES[self.name]
        options = Options(clock=asyncio.get_running_loop().time)
        self.daemon = Daemon(
            self.file, configuration.settings, self.backend, self.wire, source_for=lambda _: own, options=options
        )
        await self.daemon.start(configuration)

    def send(self) -> tuple[Address, int] | None:
        """A packet goes out by its only policy: where to, and by which SPI; None where nothing carries it."""
        (policy,) = self.backend.policies
        handle = self.backend.sender(policy)
        pair = self.backend.pairs[handle] if handle is not None else None
        if pair is None or pair.outbound is None:
            return None
        pair.outbound_packets += 1
        return pair.outbound.path.remote.address, pair.outbound.spi

    def receive(self, spi: int) -> bool:
        """A packet comes in; it counts where its SPI is known."""
        pair = self.backend.pairs.get(spi)
        if pair is None or not self.is_reached:
            return False
        pair.inbound_packets += 1
        if pair.inbound_packets == 1:
            self.backend.raise_flags(spi, SaFlag.FIRST_PACKET)
        return True


@dataclass
class Network:
    """Carries datagrams of IKE with a latency, and one packet of home with its answer each `INTERVAL`."""

    hosts: dict[str, Host]
    answered: list[tuple[float, str]] = field(default_factory=list)
    """When a packet was answered, and by whom."""
    lost: list[float] = field(default_factory=list)

    def host(self, address: Address) -> Host:
        return next(host for host in self.hosts.values() if ADDRESSES[host.name] == address)

    async def carry(self) -> None:
        while True:
            await asyncio.sleep(LATENCY)
            for sender in list(self.hosts.values()):
                while sender.wire.sent:
                    datagram = sender.wire.sent.popleft()
                    receiver = self.host(datagram.path.remote.address)
                    if sender.is_reached and receiver.is_reached:
                        turned = NetPath(local=datagram.path.remote, remote=datagram.path.local)
                        receiver.wire.deliver(Datagram(datagram.octets, turned))

    async def ping(self) -> None:
        home, time = self.hosts["home"], asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(INTERVAL)
            portal = self.there(home)
            # A moment for the portal to see the first packet of a pair, and to send by it.
            await asyncio.sleep(LATENCY)
            if portal is not None and self.there(portal) is home:
                self.answered.append((time(), portal.name))
            else:
                self.lost.append(time())

    def there(self, sender: Host) -> Host | None:
        """Who gets a packet of this host."""
        sent = sender.send()
        receiver = self.host(sent[0]) if sent is not None and sender.is_reached else None
        return receiver if receiver is not None and sent is not None and receiver.receive(sent[1]) else None

    async def until_answered_by(self, name: str, within: float) -> float:
        """Seconds until it answers, at most so many."""
        time = asyncio.get_running_loop().time
        begun = time()
        while not (self.answered and self.answered[-1][1] == name):
            assert time() - begun <= within, f"{name} does not answer within {within:g} s"
            await asyncio.sleep(INTERVAL)
        return time() - begun


@asynccontextmanager
async def network(directory: Path) -> AsyncIterator[Network]:
    secret = directory / "secret.psk"
    secret.touch(mode=0o600)
    secret.write_text("a secret that is long enough for anybody\n")
    home = Host(
        "home",
        directory,
        record("home", "gate-a", 'group = "corp"'),
        record("home", "gate-b", 'group = "corp"\norder = 1'),
    )
    gates = [Host(name, directory, record(name, "home")) for name in ("gate-a", "gate-b")]
    made = Network({host.name: host for host in (home, *gates)})
    for host in (*gates, home):
        await host.start()
    tasks = [asyncio.create_task(made.carry()), asyncio.create_task(made.ping())]
    try:
        await made.until_answered_by("gate-a", 5.0)
        while home.daemon.handlers.connection("gate-b").state is not ConnectionState.UP:
            await asyncio.sleep(INTERVAL)
        made.lost.clear()
        yield made
    finally:
        for host in made.hosts.values():
            await host.daemon.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_a_portal_that_dies_under_traffic_is_replaced_by_the_next_and_comes_back(tmp_path: Path) -> None:
    async def run() -> None:
        async with network(tmp_path) as net:
            home, gate_a = net.hosts["home"], net.hosts["gate-a"]
            gate_a.is_reached = False
            await net.until_answered_by("gate-b", LIVENESS * 1.5 + SUSPICION)
            outage = len(net.lost) * INTERVAL
            assert outage <= LIVENESS * 1.5 + SUSPICION
            net.lost.clear()
            await asyncio.sleep(RETRANSMISSION)
            status = home.daemon.handlers.connection("gate-a")
            assert status.state in {ConnectionState.DOWN, ConnectionState.CONNECTING}
            assert status.reason is Reason.PEER_SILENT
            assert net.lost == []

            gate_a.daemon.driver.stop()
            await gate_a.start()
            gate_a.is_reached = True
            await net.until_answered_by("gate-a", RETURN)
            # A responder sends by a new pair once it has seen a packet on it, which is the first one here.
            assert len(net.lost) <= 1

    run_virtual(run())


def test_a_portal_that_is_away_for_a_moment_is_replaced_for_that_moment_and_keeps_its_sas(tmp_path: Path) -> None:
    async def run() -> None:
        async with network(tmp_path) as net:
            gate_a = net.hosts["gate-a"]
            before = set(gate_a.backend.pairs)
            gate_a.is_reached = False
            await net.until_answered_by("gate-b", LIVENESS * 1.5 + SUSPICION)
            gate_a.is_reached = True
            net.lost.clear()
            await net.until_answered_by("gate-a", RETRANSMISSION)
            assert set(gate_a.backend.pairs) == before
            assert net.lost == []

    run_virtual(run())


def test_a_portal_that_says_that_it_goes_costs_no_packet(tmp_path: Path) -> None:
    async def run() -> None:
        async with network(tmp_path) as net:
            net.hosts["gate-a"].daemon.handlers.down("home")
            await net.until_answered_by("gate-b", 1.0)
            assert len(net.lost) <= 1
            await asyncio.sleep(5.0)
            assert len(net.lost) <= 1

    run_virtual(run())


def test_rekeys_and_the_death_of_a_standby_move_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async with network(tmp_path) as net:
            home = net.hosts["home"].daemon
            for name in ("gate-a", "gate-b"):
                for peer in home.peers.of(name):
                    for ike in list(peer.ike_sas):
                        home.verbs.rekey_ike(ike)
                    for handle in list(peer.children):
                        home.verbs.rekey_child(handle)
            await asyncio.sleep(5.0)
            net.hosts["gate-b"].is_reached = False
            net.answered.clear()
            await asyncio.sleep(8 * LIVENESS + RETRANSMISSION + 5.0)
            assert home.handlers.connection("gate-b").state is not ConnectionState.UP
            assert {name for _, name in net.answered} == {"gate-a"}
            assert net.lost == []

    run_virtual(run())
