"""What the README shows works as it is printed."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_example_of_the_ike_library_sends_its_first_message() -> None:
    done = subprocess.run([sys.executable, "-c", PYTHON[0]], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert re.fullmatch(r"IKE_SA_INIT request: \d+ octets; ask again at \d+\.\d s\n", done.stdout)


def test_its_files_are_there() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_its_targets_are_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"\bmake ([a-z]+)\b", README))
    assert [target for target in targets if f"\n{target}:" not in makefile] == []
