"""Draws results as one SVG: for each work a block of bars, one a subject. Plain, narrow enough for a telephone, for light and dark. Pure."""

from collections.abc import Iterable, Sequence
from textwrap import wrap
from xml.sax.saxutils import escape

from openmoat_lab.bench.results import Result

__all__ = ["chart"]

WIDTH, MARGIN = 380, 12
NAME_WIDTH, FIGURE_WIDTH = 162, 62
BAR_WIDTH = WIDTH - 2 * MARGIN - NAME_WIDTH - FIGURE_WIDTH
ROW, BAR, LINE, GAP = 20, 12, 16, 18
HEAD_LETTERS = 42
"""Of one line: a viewer may have no narrower font than DejaVu Sans, whose letters have 8 pixels on average in bold."""
NAME_LETTERS = 22
LESS_IS_BETTER = {"ms"}
"""Units."""
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328; }
.head { font-weight: 600; }
.note { fill: #59636e; }
.figure { text-anchor: end; }
rect { fill: #8c959f; }
rect.ours { fill: #0969da; }
rect.page { fill: #ffffff; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .note { fill: #9198a1; }
  rect { fill: #6e7681; }
  rect.ours { fill: #58a6ff; }
  rect.page { fill: #0d1117; }
}
"""


def chart(title: str, results: Sequence[Result], works: Iterable[str], ours: str) -> str:
    """The results of these works, in their order; bars of the subject `ours` stand out. Works without results are left out."""
    parts: list[str] = []
    top = MARGIN
    for work in works:
        rows = [row for row in results if row.work == work]
        if rows:
            top = _block(parts, work, rows, ours, top) + GAP
    height = max(top, MARGIN + LINE)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
            ' role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{height}"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def _head(work: str, unit: str) -> list[tuple[str, str]]:
    """Lines above a block, with their class: the work, then over which links, and how to read the figures."""
    what, _, links = work.partition("; ")
    note = f"{links}; {unit}, " if links else f"{unit}, "
    note += "less is better" if unit in LESS_IS_BETTER else "more is better"
    lines = [("head", line) for line in wrap(what, HEAD_LETTERS)]
    return lines + [("note", line) for line in wrap(note, HEAD_LETTERS + 4)]


def _block(parts: list[str], work: str, rows: Sequence[Result], ours: str, top: int) -> int:
    """Add the bars of one work below `top`; gives where they end."""
    for kind, line in _head(work, rows[0].unit):
        parts.append(f'<text class="{kind}" x="{MARGIN}" y="{top + BAR}">{escape(line)}</text>')
        top += LINE
    top += LINE // 4
    most = max(row.median for row in rows) or 1.0
    for row in rows:
        length = max(row.median / most * BAR_WIDTH, 1.0)
        kind = ' class="ours"' if row.subject == ours else ""
        base = top + BAR - 1
        names = wrap(row.subject, NAME_LETTERS)
        for number, name in enumerate(names):
            parts.append(f'<text x="{MARGIN}" y="{base + number * LINE}">{escape(name)}</text>')
        parts.append(f'<rect{kind} x="{MARGIN + NAME_WIDTH}" y="{top}" width="{length:.1f}" height="{BAR}" rx="2"/>')
        parts.append(f'<text class="figure" x="{WIDTH - MARGIN}" y="{base}">{_figure(row)}</text>')
        top += ROW + (len(names) - 1) * LINE
    return top


def _figure(row: Result) -> str:
    digits = 0 if row.median >= 100 else 2 if row.median >= 1 else 3
    return f"{row.median:,.{digits}f}".replace(",", "\u2009")
