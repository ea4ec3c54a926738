"""What is packed into which distribution: the product's wheel holds nothing of the laboratory, which is one of its own."""

import re
import tomllib
from pathlib import Path

from openmoat import __version__

ROOT = Path(__file__).parents[2]
PRODUCT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LAB = tomllib.loads((ROOT / "lab" / "pyproject.toml").read_text())
OF_THE_LABORATORY = {"lab", "bench", "benches", "zoo", "soak", "demo", "guest", "fixed", "unsealed", "flood"}


def packed() -> list[Path]:
    """Files that maturin packs: the package below `python-source` that its module is in, without what is compiled."""
    settings = PRODUCT["tool"]["maturin"]
    assert "include" not in settings, "say here what else is packed"
    package = ROOT / settings["python-source"] / settings["module-name"].partition(".")[0]
    files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return [path.relative_to(package) for path in files]


def test_the_wheel_of_the_product_has_no_file_of_the_laboratory() -> None:
    found = packed()
    assert len(found) > 100
    assert [path for path in found if OF_THE_LABORATORY & set(re.split(r"[/_.-]", str(path)))] == []


def test_no_module_of_the_product_knows_of_a_suite_that_encrypts_nothing() -> None:
    package = ROOT / "src" / "openmoat"
    assert [
        path for path in packed() if path.suffix in {".py", ".pyi"} and "unsealed" in (package / path).read_text()
    ] == []


def test_the_wheel_of_the_product_is_built_without_a_suite_that_encrypts_nothing() -> None:
    cargo = tomllib.loads((ROOT / PRODUCT["tool"]["maturin"]["manifest-path"]).read_text())
    chosen = {*PRODUCT["tool"]["maturin"]["features"], *cargo.get("features", {}).get("default", [])}
    assert [feature for feature in chosen if "unsealed" in feature] == []


def test_the_product_depends_on_nothing_of_the_laboratory() -> None:
    project = PRODUCT["project"]
    named = [*project["dependencies"], *(word for words in project["optional-dependencies"].values() for word in words)]
    assert [name for name in named if "lab" in re.split(r"[^a-z]", name)] == []
    assert project["scripts"].keys() == {"moat", "moatd"}


def test_the_laboratory_goes_with_the_product_of_its_own_version() -> None:
    assert LAB["project"]["version"] == __version__
    assert f"openmoat=={__version__}" in LAB["project"]["dependencies"]
