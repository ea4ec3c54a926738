"""Draws results as one SVG: for each work a block of bars, one a subject. Plain, narrow enough for a telephone, for light and dark. Pure."""

from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape

from openmoat.lab.bench.results import Result

__all__ = ["chart"]

WIDTH, MARGIN = 380, 12
NAME_WIDTH, FIGURE_WIDTH = 118, 92
BAR_WIDTH = WIDTH - 2 * MARGIN - NAME_WIDTH - FIGURE_WIDTH
ROW, BAR, HEAD, GAP = 20, 12, 24, 14
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328; }
.head { font-weight: 600; }
.figure { text-anchor: end; }
rect { fill: #8c959f; }
rect.ours { fill: #0969da; }
rect.page { fill: #ffffff; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
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
            parts += _block(work, rows, ours, top)
            top += HEAD + ROW * len(rows) + GAP
    height = max(top, MARGIN + HEAD)
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


def _block(work: str, rows: Sequence[Result], ours: str, top: int) -> Iterable[str]:
    yield f'<text class="head" x="{MARGIN}" y="{top + BAR}">{escape(f"{work}, {rows[0].unit}")}</text>'
    most = max(row.median for row in rows) or 1.0
    for number, row in enumerate(rows):
        y = top + HEAD + ROW * number
        length = max(row.median / most * BAR_WIDTH, 1.0)
        kind = ' class="ours"' if row.subject == ours else ""
        yield f'<text x="{MARGIN}" y="{y + BAR - 1}">{escape(row.subject)}</text>'
        yield f'<rect{kind} x="{MARGIN + NAME_WIDTH}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>'
        yield f'<text class="figure" x="{WIDTH - MARGIN}" y="{y + BAR - 1}">{_figure(row)}</text>'


def _figure(row: Result) -> str:
    digits = 0 if row.median >= 100 else 2 if row.median >= 1 else 3
    return f"{row.median:,.{digits}f}".replace(",", "\u2009")
