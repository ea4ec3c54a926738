"""One page for each part of the library, with every module of it, made anew at each build."""
# ruff: noqa: INP001

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx import addnodes
from sphinx.application import Sphinx

import openmoat

SOURCE = Path(openmoat.__file__).parent
PARTS = (
    "errors",
    "net",
    "crypto",
    "policy",
    "mtu",
    "model",
    "ike",
    "config",
    "dataplane",
    "system",
    "control",
    "daemon",
)


def modules(part: str) -> Iterator[str]:
    """Dotted names of the modules of a part that say something, itself first."""
    place = SOURCE / part
    if not place.is_dir():
        yield f"openmoat.{part}"
        return
    for file in sorted(place.rglob("*.py"), key=lambda file: (len(file.parts), file)):
        dotted = ".".join(file.relative_to(SOURCE.parent).with_suffix("").parts)
        if not file.name.startswith("_"):
            yield dotted


def write_pages(app: Sphinx) -> None:
    """The pages, left alone where they are as they should be: what is unchanged is not built again."""
    place = Path(app.srcdir) / "_generated" / "api"
    place.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        title = f"openmoat.{part}"
        text = f"{title}\n{'=' * len(title)}\n"
        for module in modules(part):
            heading = "" if module == title else f"\n{module}\n{'-' * len(module)}\n"
            text += f"{heading}\n.. automodule:: {module}\n"
        page = place / f"{part}.rst"
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def as_rst(lines: list[str]) -> list[str]:
    """A docstring as reStructuredText: it is plain text with code in single backticks, and examples are indented."""
    done: list[str] = []
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines)):
        rows = [row for row in paragraph.split("\n") if row.strip()]
        if rows and all(row.startswith("    ") for row in rows):
            done += ["::", "", *("    " + row for row in dedent(paragraph).split("\n")), ""]
            continue
        for text in re.split(r"\n(?=\s*(?:- |\d+\. ))", "\n".join(rows)):
            done += [inline(re.sub(r"\s+", " ", text.strip())), ""]
    return done


def inline(text: str) -> str:
    """Code between backticks is literal; nothing else is markup."""
    bullet, text = ("- ", text[2:]) if text.startswith("- ") else ("", text)
    parts = text.split("`")
    for place, part in enumerate(parts):
        is_code = place % 2 == 1 and place < len(parts) - 1
        parts[place] = (
            rf"\ ``{part}``\ " if is_code and part.strip() == part != "" else re.sub(r"([\\*_|<>`])", r"\\\1", part)
        )
    return bullet + "".join(parts)


def process(_app: Sphinx, _what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Called by autodoc for each docstring."""
    lines[:] = as_rst(lines)


def forget_others(_app: Sphinx, document: nodes.document) -> None:
    """Types that are not ours are no links: each would be looked for among all names, and `type` be found in five."""
    for link in list(document.findall(addnodes.pending_xref)):
        if link.get("refdomain") == "py" and not link["reftarget"].startswith("openmoat."):
            link.replace_self(link.children)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_lexer("mermaid", TextLexer)  # diagrams that GitHub draws stay readable text here
    app.connect("builder-inited", write_pages)
    app.connect("doctree-read", forget_others)
    app.connect("autodoc-process-docstring", process)
    return {"parallel_read_safe": True}
