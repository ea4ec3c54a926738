"""What the README and its neighbours show works as it is printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from openmoat.config.toml import load
from openmoat.crypto.keys import generate, private_pem, public_line, spki_of

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "ARCHITECTURE.md", "CHANGELOG.md"]
LIBRARY = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "guide" / "library.md").read_text(), re.DOTALL)


def test_the_example_of_the_ike_library_sends_its_first_message() -> None:
    done = subprocess.run([sys.executable, "-c", LIBRARY[0]], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert re.fullmatch(r"IKE_SA_INIT request: \d+ octets; ask again at \d+\.\d s\n", done.stdout)


@pytest.mark.parametrize("page", PAGES)
def test_its_files_are_there(page: str) -> None:
    text = (ROOT / page).read_text()
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    assert [link for link in links if not (ROOT / link.partition("#")[0]).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_its_targets_are_in_the_makefile(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"(?:`|    |&& )make ([a-z-]+)\b", (ROOT / page).read_text()))
    assert [target for target in targets if f"\n{target}:" not in makefile] == []


def test_the_files_that_contributors_are_told_to_run_are_there() -> None:
    named = set(
        re.findall(r"\b((?:tests|src|rust|docs|requirements)/[\w./-]*\w)", (ROOT / "CONTRIBUTING.md").read_text())
    )
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_files_of_the_architecture_are_there_and_the_page_is_short() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.(?:py|rs)|(?:[a-z_]+/)+)`", text))
    parts = ("", "src/openmoat", "src/openmoat/daemon", "src/openmoat/ike", "src/openmoat/config")
    places = [ROOT / part for part in (*parts, "rust", "rust/engine", "rust/engine/src")]
    assert [name for name in sorted(named) if not any((place / name).exists() for place in places)] == []
    assert len(text.splitlines()) <= 150


def test_every_page_of_the_guide_stands_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text().split("\n")
    pages = (ROOT / "docs" / "guide").glob("*.md")
    assert [page.stem for page in pages if f"guide/{page.stem}" not in index] == []


def test_its_two_configurations_are_read(tmp_path: Path) -> None:
    for number, text in enumerate(re.findall(r"```toml\n(.*?)```", README, re.DOTALL)):
        folder = tmp_path / str(number)
        folder.mkdir()
        key = generate()
        (folder / "moat.key").write_bytes(private_pem(key))
        (folder / "moat.key").chmod(0o600)
        (folder / "moat.toml").write_text(text.replace("MCowBQYDK2VwAyEA…", public_line(spki_of(key))))
        assert len(load(folder / "moat.toml").connections) == 1
