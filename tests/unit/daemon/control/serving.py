"""A daemon without a data plane, behind a control socket of its own."""

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from openmoat.config.toml import Configuration, load
from openmoat.control.client import Client
from openmoat.daemon.control.access import Policy, open_socket
from openmoat.daemon.control.http import IDLE_SECONDS
from openmoat.daemon.control.server import Server
from openmoat.daemon.main import Daemon
from openmoat.dataplane.memory import MemoryBackend, MemoryWire

CONFIGURATION = """
[connections.cabin]
psk = "secret.psk"
[connections.cabin.local]
identity = "gate.example"
[connections.cabin.peer]
identity = "cabin.example"
[connections.cabin.children.lan]
local = "10.2.0.0/16"
remote = "10.1.0.0/16"
"""


@asynccontextmanager
async def daemon(directory: Path, idle_seconds: float = IDLE_SECONDS) -> AsyncIterator[tuple[Daemon, Client]]:
    secret = directory / "secret.psk"
    secret.touch(mode=0o600)
    secret.write_text("a secret that is long enough for anybody\n")
    file = directory / "moat.toml"
    file.write_text(CONFIGURATION)
    configuration: Configuration = load(file)
    own = ipaddress.ip_address("192.0.2.1")
    one = Daemon(file, configuration.settings, MemoryBackend(), MemoryWire(), source_for=lambda _: own)
    await one.start(configuration)
    place = directory / "control.sock"
    listener = open_socket(place)
    task = asyncio.create_task(Server(one.handlers, listener, Policy(), idle_seconds, write_seconds=idle_seconds).run())
    try:
        with Client(str(place), timeout=5) as client:
            yield one, client
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        listener.close()
        await one.stop()


def ask(directory: Path, test: Callable[[Daemon, Client], Awaitable[None]], idle_seconds: float = IDLE_SECONDS) -> None:
    async def run() -> None:
        async with daemon(directory, idle_seconds) as (one, client):
            await test(one, client)

    asyncio.run(run())


async def answer_to(tmp_path: Path, octets: bytes) -> bytes:
    """Status line of what the server says to these octets."""
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control.sock"))
    writer.write(octets)
    await writer.drain()
    line = await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    return line.split(b" ", 1)[1].strip()
