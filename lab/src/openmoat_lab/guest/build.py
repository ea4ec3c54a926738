"""Makes the guest's kernel and strongSwan from Debian's packages: `make guest-kernel`. Kept outside the tree, made once.

Both come from a newer Debian than most machines run, through a separate apt state: the machine's own sources, packages
and list of installed packages are not touched. apt checks signatures as usual.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from openmoat_lab.processes import LabError, run

__all__ = ["build", "kernel", "main", "strongswan", "why_no_kernel"]

FRAGMENT = Path(__file__).with_name("kernel.config")
SUITE = "testing"
"""Of Debian: its kernel has IP-TFS (6.14 or newer) and a user-mode Linux that runs on recent processors (7.2), its
strongSwan `mode = iptfs` (6.0.2)."""
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
"""Of the package `debian-archive-keyring`, which every Debian has."""
STRONGSWAN = ("charon-systemd", "strongswan-swanctl", "libstrongswan-standard-plugins")
MERGED = ("bin", "lib", "lib64", "sbin")
"""Directories that are links into /usr; the packages rely on them."""
NEEDLESS = ("*/drivers/gpu/*.[chS]", "*/sound/*.[chS]", "*/tools/testing/*", "*/Documentation/*/*")
"""Parts of the kernel's source that are not unpacked: a third of its octets."""
REMEDY = "make guest-kernel (about 7 minutes the first time, as root)"
DOWNLOAD_SECONDS = 900.0
BUILD_SECONDS = 3600.0


def folder() -> Path:
    """Where the results are kept. Each configuration and each suite has a folder of its own."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = hashlib.sha256(FRAGMENT.read_bytes() + SUITE.encode()).hexdigest()[:12]
    return cache / "openmoat" / "guest" / key


def kernel() -> Path:
    """The kernel, a program of this machine."""
    return folder() / "linux"


def strongswan() -> Path:
    """Root directory of a strongSwan with the libraries it needs, for `chroot`."""
    return folder() / "strongswan"


def why_no_kernel() -> str:
    """Empty if a guest can be booted, otherwise the reason and the remedy."""
    missing = [path for path in (kernel(), strongswan()) if not path.exists()]
    return f"there is no {missing[0]}; remedy: {REMEDY}" if missing else ""


def build() -> None:
    """Make what is missing. Raises `LabError` with the end of a log, or with the step that failed."""
    home = folder()
    home.mkdir(parents=True, exist_ok=True)
    with _locked(home):
        if not why_no_kernel():
            _say(f"the guest is there already: {home}")
            return
        start = time.monotonic()
        work = home / "work"
        shutil.rmtree(work, ignore_errors=True)
        environment = _apt(work / "apt")
        if not strongswan().exists():
            _make_strongswan(work, environment)
        if not kernel().exists():
            _make_kernel(work, environment)
        shutil.rmtree(work)
        _say(f"the guest is ready in {home}, after {time.monotonic() - start:.0f} s")


def _apt(state: Path) -> Mapping[str, str]:
    """An apt of its own for `SUITE`, from the archive that this machine is configured for; gives its environment."""
    targets = ("apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages")
    listed = run(targets).stdout.splitlines()
    archives = [line.split()[1] for line in listed if line.startswith("Debian ")]
    if not archives:
        raise LabError(
            "apt knows no archive of Debian here: the guest is built from Debian's packages (apt-get update?)"
        )
    for directory in ("lists/partial", "cache/archives/partial", "none"):
        (state / directory).mkdir(parents=True)
    (state / "status").touch()
    (state / "sources.list").write_text(f"deb [signed-by={KEYRING}] {archives[0]} {SUITE} main\n")
    (state / "apt.conf").write_text(
        f'Dir::State::Lists "{state}/lists";\nDir::State::status "{state}/status";\nDir::Cache "{state}/cache";\n'
        f'Dir::Etc::sourcelist "{state}/sources.list";\nDir::Etc::sourceparts "{state}/none";\n'
        f'Dir::Etc::preferencesparts "{state}/none";\nAPT::Sandbox::User "root";\nAcquire::Languages "none";\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(state / "apt.conf"), "DEBIAN_FRONTEND": "noninteractive"}
    _logged(["apt-get", "update"], state / "update.log", environment, DOWNLOAD_SECONDS)
    return environment


def _make_strongswan(work: Path, environment: Mapping[str, str]) -> None:
    """The packages and all they depend on, unpacked and not installed: no script of theirs runs."""
    _say(f"getting the strongSwan of Debian {SUITE}")
    get = ["apt-get", "install", "--yes", "--download-only", "--no-install-recommends", *STRONGSWAN]
    _logged(get, work / "strongswan.log", environment, DOWNLOAD_SECONDS)
    root = work / "strongswan"
    for name in MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in sorted((work / "apt/cache/archives").glob("*.deb")):
        # Not `dpkg -x`: packages that carry /lib beside our link would replace the link.
        data = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], capture_output=True, check=True).stdout
        unpack = ["tar", "-x", "-C", str(root), "--keep-directory-symlink"]
        subprocess.run(unpack, input=data, capture_output=True, check=True)
        package.unlink()
    for name in ("proc", "sys", "dev", "run", "tmp"):
        (root / name).mkdir(exist_ok=True)
    root.rename(strongswan())


def _make_kernel(work: Path, environment: Mapping[str, str]) -> None:
    words = subprocess.run(
        ["apt-cache", "depends", "linux-source"], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    source = next((word for word in words if word.startswith("linux-source-")), None)
    if source is None:
        raise LabError(f"Debian {SUITE} has no linux-source: apt-cache depends says {' '.join(words)}")
    _say(f"getting {source}, 160 MB")
    get = ["apt-get", "download", source]
    _logged(get, work / "source.log", environment, DOWNLOAD_SECONDS, work)
    [package] = work.glob("linux-source-*.deb")
    run(["dpkg", "-x", str(package), str(work / "package")], seconds=BUILD_SECONDS)
    package.unlink()
    [archive] = (work / "package/usr/src").glob("linux-source-*.tar.*")
    excluded = [f"--exclude={pattern}" for pattern in NEEDLESS]
    run(["tar", "-xf", str(archive), "-C", str(work), "--wildcards", *excluded], seconds=BUILD_SECONDS)
    shutil.rmtree(work / "package")
    _compile(work, work / source)


def _compile(work: Path, source: Path) -> None:
    log, output = work.parent / "build.log", work / "output"
    jobs = os.cpu_count() or 1
    _say(f"building the guest kernel on {jobs} cores, some minutes; see {log}")
    make = ["make", "-C", str(source), "ARCH=um", f"O={output}"]
    # Builder, time and place do not become part of it.
    names = ["KBUILD_BUILD_USER=openmoat", "KBUILD_BUILD_HOST=guest", "KBUILD_BUILD_TIMESTAMP=@0"]
    _logged([*make, "allnoconfig", f"KCONFIG_ALLCONFIG={FRAGMENT}"], log, os.environ, BUILD_SECONDS)
    left_out = _missing((output / ".config").read_text())
    if left_out:
        raise LabError(f"{source.name} has not all of {FRAGMENT.name}: {', '.join(left_out)}")
    _logged(["nice", "-n", "10", *make, *names, f"-j{jobs}", "linux"], log, os.environ, BUILD_SECONDS)
    run(["strip", str(output / "linux"), "-o", str(work / "linux")])
    (output / ".config").rename(work.parent / "config")
    (work / "linux").rename(kernel())


def _missing(configuration: str) -> tuple[str, ...]:
    """Options of the fragment that the kernel's configuration lacks."""
    have = set(configuration.splitlines())
    return tuple(line for line in FRAGMENT.read_text().splitlines() if line.endswith("=y") and line not in have)


def _logged(
    argv: Sequence[str], log: Path, environment: Mapping[str, str], seconds: float, directory: Path | None = None
) -> None:
    """Run a command with its output in a file; an error quotes the end of it."""
    with log.open("ab") as out:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, cwd=directory, timeout=seconds,
            check=False,
        )  # fmt: skip
    if done.returncode:
        raise LabError(f"{' '.join(argv)}: exit code {done.returncode}: {log.read_text(errors='replace')[-3000:]}")


@contextlib.contextmanager
def _locked(home: Path) -> Iterator[None]:
    """One build at a time; a second one finds the result."""
    descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Build what is missing, or print why it cannot be built."""
    try:
        build()
    except LabError as error:
        sys.exit(f"the guest kernel could not be built: {error}")


if __name__ == "__main__":
    main()
