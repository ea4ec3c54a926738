"""`moat init`: makes this host ready for `moatd`: user and groups, a key, a first configuration, the systemd unit.

What is there already stays as it is, so that it can be run again; each step says what it did.
"""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from openmoat.crypto.identities import Identity
from openmoat.crypto.keys import KeyKind, generate, load_private_key, private_pem, public_line, spki_of
from openmoat.errors import SystemFault

__all__ = ["GROUP", "USER", "Initialized", "configured_identity", "hidden_from_unit", "initialize"]

USER = "moatd"
"""User of the daemon; it owns the configuration and the keys."""
GROUP = "moat"
"""Who may use `moat` without being root."""

HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
"""What `ProtectHome=yes` of the unit hides."""

FIRST_CONFIGURATION = """\
# Configuration of moatd. All options: docs/guide/configuration.md; check it with: moat check {file}

# A connection by hand. Take away the #, fill in the other side, then: moat reload
#
# [connections.office.local]
# identity = "{identity}"
# key = "{key}"
#
# [connections.office.peer]
# addresses = ["portal.example"]        # leave out where the peer comes to us
# identity = "portal.example"
# key = "MCowBQYDK2VwAyEA..."           # what moat init, or moat keys show, prints there
#
# [connections.office.children.lan]
# local = "10.1.0.0/24"
# remote = "10.2.0.0/16"
"""


@dataclass(frozen=True, slots=True)
class Initialized:
    """What was done, and what the other side needs."""

    steps: tuple[str, ...]
    identity: str
    public_key: str
    warnings: tuple[str, ...] = ()
    """What keeps the unit from starting."""


def initialize(directory: Path, unit: Path | None, identity: str = "", *, with_users: bool = True) -> Initialized:
    """Make everything that is missing. `unit` None leaves systemd alone. Raises `SystemFault`; what was made stays."""
    file = directory / "moat.toml"
    identity = identity or configured_identity(file) or socket.getfqdn()
    try:
        Identity.parse(identity)
    except ValueError as error:
        raise SystemFault(f"{error}; give another with --identity") from None
    steps: list[str] = []
    owner = (-1, -1)
    try:
        if with_users:
            steps += _make_users()
            owner = _ids()
        steps += _make_directory(directory, owner)
        key = directory / "moat.key"
        steps += _make(key, lambda: private_pem(generate(KeyKind.ED25519)), owner)
        text = FIRST_CONFIGURATION.format(file=file, identity=identity, key=key.name)
        steps += _make(file, text.encode, owner)
        if unit is not None:
            steps += _make_unit(unit, file)
        line = public_line(spki_of(load_private_key(key.read_bytes())))
    except OSError as error:
        raise SystemFault(f"{error.filename}: {error.strerror}") from None
    hidden = hidden_from_unit((Path(sys.executable).resolve(), Path(__file__).resolve())) if unit is not None else []
    warnings = (f"the unit cannot see {file}: install OpenMoat, and its Python, below /opt or /usr" for file in hidden)
    return Initialized(tuple(steps), identity, line, tuple(warnings))


def configured_identity(file: Path) -> str:
    """Our identity as a configuration names it first, in use or in its example; empty where it names none."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return ""
    section = ""
    for line in lines:
        words = line.lstrip("# ").rstrip()
        if words.startswith("["):
            section = words.strip("[]")
        elif section.endswith(".local") and words.startswith("identity"):
            return words.partition("=")[2].partition("#")[0].strip().strip("\"'")
    return ""


def _make_users() -> Iterator[str]:
    for name in (GROUP, USER):
        if not _exists("group", name):
            _run("groupadd", "--system", name)
            yield f"made the group {name}"
    if not _exists("passwd", USER):
        options = ["--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"]
        _run("useradd", *options, "--gid", USER, "--groups", GROUP, USER)
        yield f"made the user {USER}"


def _exists(database: str, name: str) -> bool:
    return subprocess.run(["getent", database, name], check=False, stdout=subprocess.DEVNULL).returncode == 0


def _ids() -> tuple[int, int]:
    import pwd

    row = pwd.getpwnam(USER)
    return row.pw_uid, row.pw_gid


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemFault(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")


def _make_directory(directory: Path, owner: tuple[int, int]) -> Iterator[str]:
    if not directory.is_dir():
        directory.mkdir(mode=0o750, parents=True)
        os.chown(directory, *owner)
        yield f"made {directory}"


def _make(file: Path, content: Callable[[], bytes], owner: tuple[int, int]) -> Iterator[str]:
    """Make a file that only its owner reads, whole or not at all, unless it is there."""
    if file.exists():
        return
    fresh = file.with_name(f".{file.name}.new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as stream:
        os.fchown(stream.fileno(), *owner)
        stream.write(content())
    fresh.rename(file)
    yield f"made {file}"


def _make_unit(unit: Path, configuration: Path) -> Iterator[str]:
    if unit.exists():
        return
    template = Path(__file__).parents[1] / "daemon" / "moatd.service"
    own = Path(sys.executable).with_name("moatd")
    program = own if own.exists() else Path(shutil.which("moatd") or "/usr/local/bin/moatd")
    lines = [
        f"ExecStart={program} --config {configuration}" if line.startswith("ExecStart=") else line
        for line in template.read_text().splitlines()
    ]
    unit.write_text("\n".join(lines) + "\n")
    yield f"made {unit}"


def hidden_from_unit(files: Iterable[Path]) -> list[Path]:
    """Those of the files that `ProtectHome=yes` takes from the daemon, with which it could not start."""
    return [file for file in files if any(file.is_relative_to(home) for home in HOMES)]
