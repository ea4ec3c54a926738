"""openmoat-lab as it is packed: what `moat` says without it, and that the remedy which it prints works."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from openmoat_lab.namespaces import labs

pytestmark = pytest.mark.namespaces

ROOT = Path(__file__).parents[2]
MOAT = "from openmoat.cli.main import main; main()"


@pytest.fixture
def libraries(tmp_path: Path) -> Path:
    """All that is installed here but openmoat-lab."""
    folder = tmp_path / "libraries"
    folder.mkdir()
    for place in Path(sysconfig.get_path("purelib")).iterdir():
        if "openmoat_lab" not in place.name:
            (folder / place.name).symlink_to(place)
    return folder


def moat(*words: str, places: tuple[Path, ...]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-S", "-c", MOAT, *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_remedy_for_a_missing_laboratory_is_one(libraries: Path, tmp_path: Path) -> None:
    product = (ROOT / "src", libraries)
    missing = moat("lab", "list", places=product)
    assert missing.returncode == 1
    *_, remedy = missing.stderr.partition("remedy, in the source tree: ")
    assert "bench" not in moat("--help", places=product).stdout

    installed = tmp_path / "installed"
    offline = ("--quiet", "--no-deps", "--no-build-isolation", "--target", str(installed))
    subprocess.run([sys.executable, *remedy.split()[1:], *offline], cwd=ROOT, check=True)
    both = (*product, installed)
    assert "openmoat_lab" in os.listdir(installed)
    assert moat("bench", "--help", places=both).stdout.startswith("Usage: moat bench")
    name = f"d{os.getpid()}"
    try:
        raised = moat("lab", "up", "two-gateways", "--name", name, places=both)
        assert f"{name} is up: " in raised.stdout, raised.stderr
        assert moat("lab", "exec", name, "left", "--", "ping", "-c1", "198.51.100.2", places=both).returncode == 0
    finally:
        down = moat("lab", "down", name, places=both)
    assert down.stdout == f"{name} is down\n"
    assert name not in {entry.name for entry in labs()}
