"""The daemon as a whole: in which order it starts and ends, and what it offers."""

import asyncio
from pathlib import Path

import pytest

from openmoat.config.toml import load
from openmoat.daemon.main import DEFAULT_CONFIGURATION, Daemon, Options, ike_config, parse_arguments
from openmoat.dataplane.memory import MemoryBackend, MemoryWire
from openmoat.model.settings import Settings
from unit.daemon.test_reloader import Bench, record, run


def test_it_says_what_it_loaded_and_what_it_could_not(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        kinds = [entry.kind for entry in bench.daemon.journal.entries()]
        assert kinds == ["connection-refused", "started"]
        assert bench.daemon.journal.entries()[0].fields == {"conn": "two"}

    run(tmp_path, test, record("one", "10.1.0.0/16"), record("two", "10.1.0.0/16"))


def test_at_the_end_nothing_is_left_and_it_is_said(tmp_path: Path) -> None:
    async def main() -> None:
        bench = Bench(tmp_path)
        await bench.start(record("one", "10.1.0.0/16"))
        await bench.daemon.stop()
        assert bench.daemon.journal.entries()[-1].kind == "stopping"
        assert bench.daemon.core.is_idle
        assert bench.backend.pairs == {}

    asyncio.run(main())


def test_time_and_randomness_are_those_it_is_given(tmp_path: Path) -> None:
    async def main() -> None:
        bench = Bench(tmp_path)
        bench.write(record("one", "10.1.0.0/16"))
        configuration, asked = load(bench.file), list[int]()

        def random(count: int) -> bytes:
            asked.append(count)
            return bytes(count)

        options = Options(clock=lambda: 4711.0, random=random)
        one = Daemon(
            bench.file,
            configuration.settings,
            MemoryBackend(),
            MemoryWire(),
            source_for=lambda _address: None,
            options=options,
        )
        await one.start(configuration)
        status = one.core.connection("one")
        assert status is not None
        assert status.since == 4711.0
        assert asked
        await one.stop()

    asyncio.run(main())


def test_nothing_is_offered_to_peers_that_the_backend_cannot_keep() -> None:
    backend = MemoryBackend()
    config = ike_config(Settings(), backend)
    assert config.esp_suites == backend.capabilities().suites
    assert config.aggfrag
    assert not config.reveal_keys
    backend.close()


def test_the_command_line_names_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_arguments([]).config == DEFAULT_CONFIGURATION
    assert parse_arguments(["--config", "other.toml"]).config == Path("other.toml")
    with pytest.raises(SystemExit):
        parse_arguments(["--version"])
    assert capsys.readouterr().out.startswith("moatd ")
