"""What stands in the root agrees with itself: one version, locked tools, types that users of the library get."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement

import openmoat

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LAB = tomllib.loads((ROOT / "lab" / "pyproject.toml").read_text())
LOCKED = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "requirements" / "dev.lock").read_text(), re.MULTILINE))


def test_there_is_one_version() -> None:
    cargo = tomllib.loads((ROOT / "rust" / "Cargo.toml").read_text())
    assert PYPROJECT["project"]["dynamic"] == ["version"]
    assert openmoat.__version__ == version("openmoat") == cargo["workspace"]["package"]["version"]
    assert not hasattr(openmoat, "another")


def test_every_requirement_is_locked_within_its_bounds() -> None:
    project, lab = PYPROJECT["project"], LAB["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["dev"], *lab["dependencies"]]
    lines += [*PYPROJECT["build-system"]["requires"], *LAB["build-system"]["requires"]]
    asked = [Requirement(line) for line in lines if not line.startswith("openmoat==")]
    outside = [str(r) for r in asked if r.name not in LOCKED or not r.specifier.contains(LOCKED[r.name])]
    assert outside == [], "make lock; what the laboratory alone needs stands in the extra `dev`, too"


def test_users_of_the_library_get_its_types() -> None:
    assert (Path(openmoat.__file__).parent / "py.typed").is_file()
