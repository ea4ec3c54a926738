"""The man pages as pages of this documentation: the few macros that they use, written as Markdown."""
# ruff: noqa: INP001

import re
from pathlib import Path

from sphinx.application import Sphinx

ESCAPES = {r"\-": "-", r"\(dq": '"', r"\(aq": "'", r"\(bu": "•", r"\&": "", r"\e": "\\"}


def markdown(page: str) -> str:
    """One man page; `ValueError` for a macro that is not known here."""
    done: list[str] = []
    is_term = False
    for line in page.split("\n"):
        macro, _, rest = line.partition(" ")
        match macro:
            case ".TH":
                name, section, *_ = rest.split()
                done.append(f"# {name.lower()}({section})\n")
            case ".SH":
                done.append(f"\n## {rest.strip().capitalize()}\n")
            case ".TP" | ".PP":
                done.append("")
                is_term = macro == ".TP"
            case ".br":
                done.append("\\")
            case ".B" | ".BR" | ".I":
                words = re.findall(r'"[^"]*"|\S+', rest)
                shown = " ".join(words) if macro != ".BR" else "".join(words[:1])
                done.append(
                    text(rf"\fB{shown.replace(chr(34), '')}\fR" + (" ".join(words[1:]) if macro == ".BR" else ""))
                )
            case "" if not rest:
                continue
            case _ if macro.startswith("."):
                raise ValueError(f"man page: macro {macro} is not known to docs/_extensions/manpages.py")
            case _:
                done.append(text(line))
        if is_term and not macro.startswith(".T"):
            done[-1] += "\\"
            is_term = False
    return "\n".join(done) + "\n"


def text(line: str) -> str:
    """Fonts and escapes of one line."""
    for escape, plain in ESCAPES.items():
        line = line.replace(escape, plain)
    line = re.sub(r"([*_\[\]<>])", r"\\\1", line)
    line = re.sub(r"\\fB(.*?)\\f[RP]", r"**\1**", line)
    return re.sub(r"\\fI(.*?)\\f[RP]", r"*\1*", line)


def write_pages(app: Sphinx) -> None:
    """Called before anything is read."""
    place = Path(app.srcdir) / "_generated" / "man"
    place.mkdir(parents=True, exist_ok=True)
    for page in (Path(app.srcdir) / "man").iterdir():
        written = markdown(page.read_text())
        target = place / f"{page.name}.md"
        if not target.exists() or target.read_text() != written:
            target.write_text(written)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
