"""What a reload changes, what it leaves alone, and what it refuses; on a daemon over a data plane in memory."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from openmoat.config.toml import load
from openmoat.control.messages import ErrorCode
from openmoat.daemon.main import Daemon
from openmoat.dataplane.memory import MemoryBackend, MemoryWire
from openmoat.errors import ConfigError, ControlError

RECORD = """
[connections.{name}]
psk = "secret.psk"
{options}
[connections.{name}.local]
identity = "gate.example"
[connections.{name}.peer]
identity = "{name}.example"
[connections.{name}.children.lan]
local = "10.2.0.0/16"
remote = "{remote}"
"""


def record(name: str, remote: str, options: str = "") -> str:
    return RECORD.format(name=name, remote=remote, options=options)


class Bench:
    """A daemon and its file."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "moat.toml"
        secret = directory / "secret.psk"
        secret.touch(mode=0o600)
        secret.write_text("a secret that is long enough for anybody\n")
        self.backend = MemoryBackend()

    async def start(self, *records: str) -> None:
        self.write(*records)
        configuration = load(self.file)
        self.daemon = Daemon(
            self.file, configuration.settings, self.backend, MemoryWire(), source_for=lambda _address: None
        )
        await self.daemon.start(configuration)

    def write(self, *records: str) -> None:
        self.file.write_text("".join(records))

    def policies(self) -> dict[str, int]:
        return {policy.name: policy.id for policy in self.backend.policies.values()}


@asynccontextmanager
async def started(directory: Path, *records: str) -> AsyncIterator[Bench]:
    bench = Bench(directory)
    await bench.start(*records)
    try:
        yield bench
    finally:
        await bench.daemon.stop()


def run(directory: Path, test: Callable[[Bench], Awaitable[None]], *records: str) -> None:
    async def main() -> None:
        async with started(directory, *records) as bench:
            await test(bench)

    asyncio.run(main())


ONE, TWO = record("one", "10.1.0.0/16"), record("two", "10.3.0.0/16")


def test_a_reload_tells_what_it_did_and_keeps_what_is_the_same(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        before = bench.policies()
        bench.write(TWO, record("three", "10.4.0.0/16"))
        reloaded = await bench.daemon.reloader.reload()
        assert (reloaded.added, reloaded.removed, reloaded.unchanged) == (("three",), ("one",), 1)
        after = bench.policies()
        assert after.keys() == {"two/lan", "three/lan"}
        assert after["two/lan"] == before["two/lan"]
        assert bench.daemon.core.connection("one") is None
        assert bench.daemon.core.connection("three") is not None

    run(tmp_path, test, ONE, TWO)


def test_a_connection_in_conflict_is_left_out_until_the_other_is_gone(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        assert list(bench.daemon.loaded.conflicts) == ["two"]
        assert bench.daemon.core.connection("two") is None
        with pytest.raises(ControlError, match=r"already leads to one\.example") as caught:
            bench.daemon.handlers.up("two")
        assert caught.value.code == ErrorCode.BUSY
        bench.write(record("two", "10.1.0.0/16"))
        reloaded = await bench.daemon.reloader.reload()
        assert (reloaded.removed, reloaded.refused) == (("one",), {})
        assert bench.daemon.core.connection("two") is not None

    run(tmp_path, test, ONE, record("two", "10.1.0.0/16"))


def test_the_remedy_for_a_conflict_works(tmp_path: Path) -> None:
    """It says: give both connections the same group."""

    async def test(bench: Bench) -> None:
        assert "the same group" in bench.daemon.loaded.conflicts["two"]
        group = 'group = "corp"'
        bench.write(record("one", "10.1.0.0/16", group), record("two", "10.1.0.0/16", group))
        assert (await bench.daemon.reloader.reload()).refused == {}
        assert bench.policies().keys() == {"group corp/lan"}
        status = bench.daemon.handlers.connection("two").group
        assert status is not None
        assert (status.name, status.carries, status.text) == ("corp", (), "no connection of the group is up")

    run(tmp_path, test, ONE, record("two", "10.1.0.0/16"))


def test_a_file_with_errors_changes_nothing(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        before = bench.policies()
        bench.write("[connections.one]\nwrong = 1\n")
        with pytest.raises(ControlError) as caught:
            await bench.daemon.reloader.reload()
        assert caught.value.code == ErrorCode.CONFIGURATION
        with pytest.raises(ConfigError):
            load(bench.file)
        assert bench.policies() == before
        await bench.daemon.reload()
        assert bench.daemon.journal.entries()[-1].kind == "reload-refused"

    run(tmp_path, test, ONE)


def test_two_reloads_at_a_time_are_one_too_many(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        results = await asyncio.gather(
            bench.daemon.reloader.reload(), bench.daemon.reloader.reload(), return_exceptions=True
        )
        refused = [result for result in results if isinstance(result, ControlError)]
        assert [error.code for error in refused] == [ErrorCode.BUSY]
        await bench.daemon.reloader.reload()

    run(tmp_path, test, ONE)


def test_settings_that_need_no_restart_are_in_force_after_a_reload(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        keys = tmp_path / "keys"
        bench.write(f'[daemon]\nlog-level = "error"\nkey-log = "{keys}"\n', ONE)
        try:
            assert (await bench.daemon.reloader.reload()).restart_needed == ()
            assert logging.getLogger("openmoat").level == logging.ERROR
            assert keys.exists()
            assert bench.daemon.core.config.reveal_keys
            bench.write('[daemon]\ndevice = "moat7"\n', ONE)
            assert (await bench.daemon.reloader.reload()).restart_needed == ("device",)
            assert bench.daemon.handlers.status().device == "moat0"
        finally:
            logging.getLogger("openmoat").setLevel(logging.NOTSET)

    run(tmp_path, test, ONE)
