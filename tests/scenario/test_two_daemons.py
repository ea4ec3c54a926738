"""Two whole daemons in one event loop, joined by memory wires: from configuration files to installed Child SAs and back."""

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from openmoat.config.toml import load
from openmoat.control.messages import ConnectionState, ErrorCode, OutsideSize
from openmoat.control.reasons import Reason
from openmoat.crypto.keys import generate, private_pem, public_line, spki_of
from openmoat.daemon.main import Daemon
from openmoat.dataplane.backend import Acquire, SaFlag
from openmoat.dataplane.memory import MemoryBackend, MemoryWire
from openmoat.dataplane.wire import Datagram
from openmoat.errors import ControlError
from openmoat.net import Path as NetPath

ADDRESSES = {name: ipaddress.ip_address(f"192.0.2.{number}") for number, name in enumerate(("home", "portal"), 1)}
NETWORKS = {"home": "10.1.0.0/24", "portal": "10.2.0.0/16"}
OTHER = {"home": "portal", "portal": "home"}


class Host:
    """One daemon with its files, backend and wire."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.file = directory / f"{name}.toml"
        self.backend = MemoryBackend()
        self.wire = MemoryWire()
        self.daemon: Daemon

    def configure(self, text: str) -> None:
        self.file.write_text(text)

    async def start(self) -> None:
        configuration = load(self.file)
        own = ADDRESSES[self.name]
        self.daemon = Daemon(self.file, configuration.settings, self.backend, self.wire, source_for=lambda _: own)
        await self.daemon.start(configuration)

    def state(self) -> ConnectionState:
        return self.daemon.handlers.connection(OTHER[self.name]).state

    def active(self) -> list[int]:
        return [handle for handle, pair in self.backend.pairs.items() if pair.is_active]


class Pair:
    """Two hosts; octets that one sends the other receives, in the same loop."""

    def __init__(self, directory: Path) -> None:
        self.home = Host("home", directory)
        self.portal = Host("portal", directory)

    def carry(self) -> None:
        for sender, receiver in ((self.home, self.portal), (self.portal, self.home)):
            while sender.wire.sent:
                datagram = sender.wire.sent.popleft()
                turned = NetPath(local=datagram.path.remote, remote=datagram.path.local)
                receiver.wire.deliver(Datagram(datagram.octets, turned))

    async def until(self, what: Callable[[], bool]) -> None:
        async def wait() -> None:
            while not what():
                self.carry()
                await asyncio.sleep(0.001)

        await asyncio.wait_for(wait(), 10)


def record(name: str, directory: Path, *, start: str = "auto", psk: str = "secret.psk", esp: str = "") -> str:
    """The configuration of one end; each has its own key file, so that a test can spoil one."""
    other = OTHER[name]
    secret = directory / psk
    if not secret.exists():
        secret.touch(mode=0o600)
        secret.write_text("0s" + "c2VjcmV0IG9mIHR3byBkYWVtb25zIHRoYXQgaXMgbG9uZw==" + "\n")
    proposals = f'proposals = ["{esp}"]\n' if esp else ""
    return f"""
[connections.{other}]
psk = "{psk}"
[connections.{other}.local]
identity = "{name}.example"
[connections.{other}.peer]
addresses = ["{ADDRESSES[other]}"]
identity = "{other}.example"
[connections.{other}.children.lan]
local = "{NETWORKS[name]}"
remote = "{NETWORKS[other]}"
start = "{start}"
{proposals}"""


@asynccontextmanager
async def pair(directory: Path, home: str, portal: str) -> AsyncIterator[Pair]:
    two = Pair(directory)
    two.home.configure(home)
    two.portal.configure(portal)
    await two.portal.start()
    await two.home.start()
    try:
        yield two
    finally:
        for host in (two.home, two.portal):
            stopping = asyncio.create_task(host.daemon.stop())
            await two.until(stopping.done)


def test_two_daemons_bring_a_connection_up_and_stop_in_order(tmp_path: Path) -> None:
    async def run() -> None:
        async with pair(tmp_path, record("home", tmp_path), record("portal", tmp_path, start="none")) as two:
            await two.until(lambda: bool(two.home.active() and two.portal.backend.pairs))
            [handle] = two.home.active()
            [(other, twin)] = two.portal.backend.pairs.items()
            sent, received = two.home.backend.pairs[handle].outbound, twin.inbound
            assert sent is not None
            assert (sent.spi, sent.key) == (other, received.key)
            two.portal.backend.raise_flags(other, SaFlag.FIRST_PACKET)
            await two.until(lambda: two.portal.active() == [other])
            assert two.home.state() is two.portal.state() is ConnectionState.UP
            status = next(two.home.daemon.handlers.connections())
            assert status.peers[0].identity == "portal.example"
        assert two.home.backend.pairs == {}
        assert two.portal.backend.pairs == {}

    asyncio.run(run())


def test_down_holds_until_up(tmp_path: Path) -> None:
    async def run() -> None:
        async with pair(tmp_path, record("home", tmp_path), record("portal", tmp_path, start="none")) as two:
            await two.until(lambda: bool(two.home.active()))
            two.home.daemon.handlers.down("portal")
            await two.until(lambda: not two.home.backend.pairs and not two.portal.backend.pairs)
            assert two.home.state() is ConnectionState.STOPPED
            await two.home.daemon.reloader.reload()
            assert two.home.state() is ConnectionState.STOPPED
            two.home.daemon.handlers.up("portal")
            await two.until(lambda: bool(two.home.active()))
            assert two.home.state() is ConnectionState.UP

    asyncio.run(run())


def test_a_packet_brings_a_trapping_connection_up(tmp_path: Path) -> None:
    async def run() -> None:
        home, portal = record("home", tmp_path, start="trap"), record("portal", tmp_path, start="none")
        async with pair(tmp_path, home, portal) as two:
            assert two.home.state() is ConnectionState.WAITING
            [policy] = two.home.backend.policies
            source, destination = ipaddress.ip_address("10.1.0.9"), ipaddress.ip_address("10.2.0.9")
            two.home.backend.make_noise(
                Acquire(
                    policy=policy,
                    source=source,
                    destination=destination,
                    protocol=1,
                    source_port=0,
                    destination_port=0,
                )
            )
            await two.until(lambda: bool(two.home.active()))
            two.home.daemon.handlers.down("portal")
            await two.until(lambda: not two.portal.backend.pairs)
            two.home.daemon.core.handle_acquire("portal", "lan", two.home.daemon.driver.clock())
            assert two.home.state() is ConnectionState.STOPPED

    asyncio.run(run())


def test_a_key_log_begins_with_a_reload(tmp_path: Path) -> None:
    async def run() -> None:
        async with pair(tmp_path, record("home", tmp_path), record("portal", tmp_path, start="none")) as two:
            await two.until(lambda: bool(two.home.active()))
            keys = tmp_path / "keys"
            two.home.configure(f'[daemon]\nkey-log = "{keys}"\n' + record("home", tmp_path, esp="aes128gcm16-noesn"))
            await two.home.daemon.reloader.reload()
            await two.until(lambda: (tmp_path / "keys.esp").read_text().count("\n") == 2)
            two.home.daemon.handlers.down("portal")
            two.home.daemon.handlers.up("portal")
            await two.until(lambda: keys.read_text().count("\n") == 1)

    asyncio.run(run())


def test_a_reload_touches_only_what_changed(tmp_path: Path) -> None:
    async def run() -> None:
        async with pair(tmp_path, record("home", tmp_path), record("portal", tmp_path, start="none")) as two:
            await two.until(lambda: bool(two.home.active()))
            before = two.home.active()
            extra = record("portal", tmp_path).replace("connections.home", "connections.other")
            extra = extra.replace("10.2.0.0/16", "10.7.0.0/16").replace("10.1.0.0/24", "10.8.0.0/16")
            two.home.configure(record("home", tmp_path) + extra)
            reloaded = await two.home.daemon.reloader.reload()
            assert (reloaded.added, reloaded.unchanged) == (("other",), 1)
            assert two.home.active() == before
            two.home.configure(extra)
            assert (await two.home.daemon.reloader.reload()).removed == ("portal",)
            await two.until(lambda: not two.portal.backend.pairs)

    asyncio.run(run())


def test_a_change_that_sas_can_bear_leaves_them_and_is_in_force(tmp_path: Path) -> None:
    async def run() -> None:
        async with pair(tmp_path, record("home", tmp_path), record("portal", tmp_path, start="none")) as two:
            await two.until(lambda: bool(two.home.active()))
            [handle] = two.home.active()
            two.home.configure(record("home", tmp_path) + "path-mtu = 1400\nlifetimes.rekey-octets = 12345\n")
            assert (await two.home.daemon.reloader.reload()).changed == {"portal": "live"}
            assert two.home.active() == [handle]
            outbound = two.home.backend.pairs[handle].outbound
            assert outbound is not None
            assert (outbound.plan.outer_size, outbound.limits.soft_octets) == (1400, 12345)
            assert two.home.state() is ConnectionState.UP

    asyncio.run(run())


def test_other_algorithms_come_by_a_rekey_without_a_gap(tmp_path: Path) -> None:
    async def run() -> None:
        both = 'aes128gcm16", "chacha20poly1305'
        home = record("home", tmp_path, esp="aes128gcm16")
        async with pair(tmp_path, home, record("portal", tmp_path, start="none", esp=both)) as two:
            await two.until(lambda: bool(two.home.active()))
            [before] = two.home.active()
            two.home.configure(record("home", tmp_path, esp="chacha20poly1305"))
            assert (await two.home.daemon.reloader.reload()).changed == {"portal": "rekey"}
            assert before in two.home.backend.pairs
            await two.until(lambda: len(two.home.active()) == 1 and two.home.active() != [before])
            [after] = two.home.active()
            assert two.home.backend.pairs[after].inbound.suite.encryption.name == "chacha20poly1305"

    asyncio.run(run())


def test_a_file_with_faults_changes_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async with pair(tmp_path, record("home", tmp_path), record("portal", tmp_path, start="none")) as two:
            await two.until(lambda: bool(two.home.active()))
            two.home.configure("[connections.portal]\nwrong = 1\n")
            with pytest.raises(ControlError) as caught:
                await two.home.daemon.reloader.reload()
            assert caught.value.code == ErrorCode.CONFIGURATION
            assert two.home.state() is ConnectionState.UP

    asyncio.run(run())


def test_algorithms_that_are_not_shared_are_explained_on_both_sides(tmp_path: Path) -> None:
    async def run() -> None:
        home = record("home", tmp_path, esp="aes128gcm16")
        portal = record("portal", tmp_path, start="none", esp="chacha20poly1305")
        async with pair(tmp_path, home, portal) as two:
            await two.until(lambda: two.home.daemon.handlers.connection("portal").failure is not None)
            theirs = two.home.daemon.handlers.connection("portal")
            assert theirs.reason in {Reason.REFUSED, Reason.NO_COMMON_GROUND}
            assert theirs.failure is not None
            assert "the peer answers NO_PROPOSAL_CHOSEN" in theirs.failure.summary
            ours = two.portal.daemon.handlers.connection("home").failure
            assert ours is not None
            nearest = ours.candidates[0]
            assert (nearest.field, nearest.ours) == ("encryption", "chacha20poly1305")
            assert "aes128gcm16" in nearest.received

    asyncio.run(run())


def test_a_wrong_key_is_explained_on_both_sides(tmp_path: Path) -> None:
    other = tmp_path / "other.psk"
    other.touch(mode=0o600)
    other.write_text("0s" + "YW5vdGhlciBzZWNyZXQgdGhhdCBub2JvZHkgYmVzaWRlcyBrbm93cw==" + "\n")

    async def run() -> None:
        home = record("home", tmp_path, psk="other.psk")
        async with pair(tmp_path, home, record("portal", tmp_path, start="none")) as two:
            await two.until(lambda: two.home.daemon.handlers.connection("portal").failure is not None)
            status = two.home.daemon.handlers.connection("portal")
            assert status.reason is Reason.AUTHENTICATION_FAILED
            ours = two.portal.daemon.handlers.connection("home").failure
            assert ours is not None
            assert ours.candidates[0].field == "authentication"

    asyncio.run(run())


def test_raw_keys_work_from_files(tmp_path: Path) -> None:
    for name in ("home", "portal"):
        key = generate()
        file = tmp_path / f"{name}.key"
        file.touch(mode=0o600)
        file.write_bytes(private_pem(key))
        (tmp_path / f"{name}.pub").write_text(public_line(spki_of(key)))

    def keyed(name: str, start: str) -> str:
        text = record(name, tmp_path, start=start)
        text = text.replace('psk = "secret.psk"', "")
        text = text.replace(
            f"[connections.{OTHER[name]}.local]", f'[connections.{OTHER[name]}.local]\nkey = "{name}.key"'
        )
        return text.replace(
            f"[connections.{OTHER[name]}.peer]",
            f'[connections.{OTHER[name]}.peer]\nkey = "{(tmp_path / OTHER[name]).with_suffix(".pub").read_text()}"',
        )

    async def run() -> None:
        async with pair(tmp_path, keyed("home", "auto"), keyed("portal", "none")) as two:
            await two.until(lambda: bool(two.home.active()))
            ike = two.home.daemon.handlers.connection("portal").peers[0].ike
            assert ike is not None
            assert ike.own_method == ike.peer_method == "signature"

    asyncio.run(run())


def test_a_template_serves_a_peer_while_it_is_here(tmp_path: Path) -> None:
    async def run() -> None:
        portal = record("portal", tmp_path, start="none").replace('"home.example"', '"*.example"')
        portal = portal.replace('addresses = ["192.0.2.1"]\n', "").replace(
            'remote = "10.1.0.0/24"', 'remote = "10.0.0.0/15"'
        )
        async with pair(tmp_path, record("home", tmp_path), portal) as two:
            await two.until(lambda: bool(two.home.active()))
            (policy,) = two.portal.backend.policies.values()
            assert policy.name.startswith("home/lan@home.example, ")
            status = two.portal.daemon.handlers.connection("home")
            assert (status.is_template, status.state) == (True, ConnectionState.UP)
            assert [peer.identity for peer in status.peers] == ["home.example"]
            with pytest.raises(ControlError) as caught:
                two.portal.daemon.handlers.up("home")
            assert caught.value.code == ErrorCode.TEMPLATE
            two.home.daemon.handlers.down("portal")
            await two.until(lambda: not two.portal.backend.pairs)
            assert two.portal.backend.policies == {}

    asyncio.run(run())


def template_of(portal: str) -> str:
    """The record of the portal, for many peers."""
    text = portal.replace('"home.example"', '"*.example"').replace('addresses = ["192.0.2.1"]\n', "")
    return text.replace('remote = "10.1.0.0/24"', 'remote = "10.0.0.0/15"')


def test_one_peer_of_a_template_is_rekeyed_deleted_and_kept_out_by_its_identity(tmp_path: Path) -> None:
    async def run() -> None:
        portal = template_of(record("portal", tmp_path, start="none"))
        async with pair(tmp_path, record("home", tmp_path), portal) as two:
            await two.until(lambda: bool(two.home.active()) and bool(two.portal.backend.pairs))
            handlers, peer = two.portal.daemon.handlers, "home.example"
            before = set(two.portal.backend.pairs)
            two.portal.backend.pairs[min(before)].inbound_packets = 5
            assert "2 SAs are being rekeyed" in handlers.rekey("home", peer).text
            await two.until(lambda: not before & set(two.portal.backend.pairs))
            (there,) = handlers.connection("home").peers
            assert there.counters.inbound_packets == 5
            assert there.last_in is not None
            after = set(two.portal.backend.pairs)
            handlers.delete("home", peer)
            await two.until(lambda: bool(two.portal.backend.pairs) and not after & set(two.portal.backend.pairs))
            handlers.down("home", peer)
            await two.until(lambda: not two.portal.backend.pairs and not two.home.backend.pairs)
            (gone,) = handlers.connection("home").peers
            assert (gone.ike, gone.reason, gone.counters.inbound_packets) == (None, Reason.ASKED, 5)
            at_home = two.home.daemon.handlers
            await two.until(lambda: at_home.connection("portal").reason is Reason.AUTHENTICATION_FAILED)
            assert handlers.connection("home").state is ConnectionState.WAITING

    asyncio.run(run())


def test_what_the_path_carries_is_found_shown_and_looked_for_again_when_asked_or_suspected(tmp_path: Path) -> None:
    async def run() -> None:
        async with pair(tmp_path, record("home", tmp_path), record("portal", tmp_path, start="none")) as two:
            desk = two.home.daemon.handlers

            def outside() -> OutsideSize | None:
                peers = desk.connection("portal").peers
                return peers[0].ike.outside if peers and peers[0].ike else None

            def is_known() -> bool:
                found = outside()
                return found is not None and found.fragments_pass is True and found.probing is None

            await two.until(is_known)
            [handle] = two.home.active()
            [child] = desk.connection("portal").peers[0].children
            plan = two.home.backend.pairs[handle].outbound
            assert plan is not None
            assert child.sizes is not None
            assert (child.sizes.outer_size, child.sizes.inner_room) == (1500, plan.plan.inner_room)
            assert not child.sizes.is_configured
            assert next(desk.connections()).peers[0].children[0].sizes is None
            assert "1 paths" in desk.probe("portal").text
            found = outside()
            assert found is not None
            assert (found.learned, found.probing, found.probing_fragments) == ("probe", 1500, False)
            await two.until(is_known)
            for flag in (SaFlag.SUSPECT, SaFlag.BLACK_HOLE):
                two.home.backend.raise_flags(handle, flag)
                await two.until(lambda: (found := outside()) is not None and found.probing is not None)
                await two.until(is_known)
            installed = two.home.daemon.peers.child(handle)
            assert installed is not None
            assert installed.has_our_vendor_id
            two.home.daemon.handlers.down("portal")
            await two.until(lambda: not two.home.backend.pairs)
            with pytest.raises(ControlError, match="nothing can be probed"):
                desk.probe("portal")

    asyncio.run(run())
