"""Sphinx: the guide, the decisions, the man pages, and the library as its docstrings describe it."""
# ruff: noqa: INP001

import sys
from pathlib import Path

import openmoat

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))

project = "OpenMoat"
version = release = openmoat.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "reference", "manpages"]
exclude_patterns = ["_build", "guide/example"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": False}
toc_object_entries = False  # thousands, copied for each page
html_theme = "furo"
html_title = f"OpenMoat {version}"
html_show_copyright = False
