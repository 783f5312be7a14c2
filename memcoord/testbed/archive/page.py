"""One HTML page that needs nothing else: no request leaves it, and no script runs in it.

Owns: the frame and the look of every page, its tables, and the escaping. Everything on a page is
text, tables and SVG, so it can be mailed, archived, printed and opened where scripts are forbidden.
The same input gives the same bytes: no date of making, no random names. Pure.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

#: What a page may load: nothing. Styles stand in it; pictures are drawn in it.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STYLE = """
.mc{font:15px/1.5 system-ui,sans-serif;color:#1b1b1b;background:#fff;max-width:96rem;
margin:1rem auto;padding:0 1rem}
.mc h1{font-size:1.6rem;margin:.6rem 0}.mc h2{font-size:1.2rem;margin:1.6rem 0 .4rem}
.mc h3{font-size:1rem;margin:1rem 0 .2rem}
.mc .verdict{font-size:1.1rem;max-width:62rem}.mc .verdict p{margin:.3rem 0}
.mc .scroll{overflow-x:auto}
.mc table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:14px}
.mc th,.mc td{padding:.12rem .55rem;text-align:right;white-space:nowrap}
.mc th[scope=row],.mc td.t,.mc th.t{text-align:left}.mc td.w{white-space:normal;min-width:18rem}
.mc thead th{border-bottom:1px solid #777;vertical-align:bottom;white-space:normal}
.mc tr.first th,.mc tr.first td{border-top:1px solid #ccc}
.mc td.good{color:#00563f;font-weight:600}.mc td.bad{color:#9a3412;font-weight:600}
.mc .row{display:grid;grid-template-columns:repeat(auto-fit,minmax(19rem,1fr));gap:.4rem 1.2rem}
.mc figure{margin:0;min-width:0;max-width:38rem}.mc figcaption{font-weight:600}
.mc svg{width:100%;height:auto;max-width:60rem}.mc svg text{font:26px system-ui,sans-serif}
.mc svg text:not([fill]){fill:#333}.mc svg .b{font-weight:700}.mc svg .g{stroke:#ddd}
.mc svg .c{stroke-width:3;stroke-linejoin:round}
.mc .note{color:#444;max-width:62rem}
.mc ul{margin:.3rem 0;padding-left:1.2rem}
@media print{.mc{margin:0;max-width:none}.mc figure{break-inside:avoid}}
"""
Cell = str | tuple[str, str]  # its text, or text and class


def escape(text: object) -> str:
    """The text as HTML shows it."""
    return html.escape(str(text))


def document(title: str, body: str) -> str:
    """A whole page around ``body``, the markup of this module and of ``svg``."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title></head><body>{body}</body></html>\n"
    )


def article(title: str, parts: Iterable[str]) -> str:
    """The body of a page: a heading and what follows, with the style, so that it stands alone."""
    inside = "".join(parts)
    return f'<style>{STYLE}</style><main class="mc"><h1>{escape(title)}</h1>{inside}</main>'


def verdict(sentences: Sequence[str]) -> str:
    """What it comes to, first and larger."""
    return f'<div class="verdict">{"".join(f"<p>{escape(one)}</p>" for one in sentences)}</div>'


def heading(text: str) -> str:
    """A section's heading."""
    return f"<h2>{escape(text)}</h2>"


def note(text: str) -> str:
    """A paragraph that explains."""
    return f'<p class="note">{escape(text)}</p>'


def listed(lines: Sequence[str]) -> str:
    """Lines as a list; nothing where there are none."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def table(label: str, heads: Sequence[str], rows: Sequence[Sequence[Cell]], words: int = 1) -> str:
    """A table; the first ``words`` columns hold words, the others numbers. A first cell that is
    the same as above is not said again; the row where it changes has a line above."""
    made, before = [], None
    is_grouped = len({row[0] for row in rows}) < len(rows)
    kinds = [{at for at, cell in enumerate(row) if _is_text(cell)} for row in rows]
    texts = set.intersection(*kinds) if kinds else set()
    top = "".join(
        f'<th scope="col"{_kind("t" if at < words or at in texts else "")}>{escape(head)}</th>'
        for at, head in enumerate(heads)
    )
    for row in rows:
        cells = []
        for at, cell in enumerate(row):
            text, kind = cell if isinstance(cell, tuple) else (cell, "t" if at < words else "")
            if at:
                cells.append(f"<td{_kind(kind)}>{escape(text)}</td>")
            else:
                is_again = text == before and len(row) > 1
                cells.append("<td></td>" if is_again else f'<th scope="row">{escape(text)}</th>')
        is_new = is_grouped and before is not None and cells[0] != "<td></td>"
        made.append(f"<tr{_kind('first' if is_new else '')}>{''.join(cells)}</tr>")
        before = row[0] if isinstance(row[0], str) else row[0][0]
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table>'
        f"<thead><tr>{top}</tr></thead><tbody>{''.join(made)}</tbody></table></div>"
    )


def _is_text(cell: Cell) -> bool:
    return isinstance(cell, tuple) and "t" in cell[1].split()


def _kind(name: str) -> str:
    return f' class="{name}"' if name else ""


def pictures(found: Sequence[tuple[str, str]]) -> str:
    """Pictures side by side, each with its title; the titles are not escaped twice."""
    shown = (f"<figure><figcaption>{escape(t)}</figcaption>{p}</figure>" for t, p in found)
    return f'<div class="row">{"".join(shown)}</div>'
