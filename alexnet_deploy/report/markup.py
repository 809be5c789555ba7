"""Pieces of HTML. Every text that comes in is escaped here; what is called `html` is markup already."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape as escaped_markup

from alexnet_deploy.printable import printable_lines
from alexnet_deploy.report.style import runtime_class


def escape(text: str) -> str:
    """Text as markup that shows it: what would be markup, a control or a mark of direction is spelt out."""
    return escaped_markup(printable_lines(text))


class Markup(str):
    """Text that is HTML already, made by this package and of nothing unescaped."""

    __slots__ = ()


def section(anchor: str, title: str, *html: str) -> str:
    """A part of the page with a heading; nothing where all parts are empty."""
    body = "".join(html)
    if not body:
        return ""
    return (
        f'<section id="{anchor}" aria-labelledby="{anchor}-h"><h2 id="{anchor}-h">{escape(title)}</h2>{body}</section>'
    )


def heading(text: str) -> str:
    """A heading below the one of a section."""
    return f"<h3>{escape(text)}</h3>"


def paragraph(text: str, kind: str = "") -> str:
    """Plain text; nothing where it is empty."""
    attribute = f' class="{kind}"' if kind else ""
    return f"<p{attribute}>{escape(text)}</p>" if text else ""


def bullets(lines: Sequence[str], kind: str = "") -> str:
    """A list; nothing where there are no lines."""
    attribute = f' class="{kind}"' if kind else ""
    return f"<ul{attribute}>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def scrolled(label: str, html: str) -> str:
    """A region that scrolls sideways on its own, by keyboard too, so that the page never does."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">{html}</div>'


def figure(label: str, picture: str, caption: str = "") -> str:
    """A picture with what is to be known of it; nothing where there is no picture."""
    if not picture:
        return ""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{scrolled(label, picture)}{below}</figure>"


def runtime_cell(runtime: str) -> Markup:
    """The first cell of a row about a runtime, with its colour."""
    swatch = f'<span class="swatch {runtime_class(runtime)}"></span>'
    return Markup(f'<th scope="row">{swatch}{escape(runtime)}</th>')


def table(label: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int = 1, wide: str = "") -> str:
    """A table whose first columns are texts and whose others are numbers; nothing where there are no rows.

    Args:
        label: What the table is about.
        head: Column titles.
        rows: Cells as text; the first may be a `runtime_cell`.
        texts: How many columns are texts.
        wide: `wrap` where the last column holds sentences.
    """
    if not rows:
        return ""
    titles = "".join(_cell(title, index < texts, 'th scope="col"') for index, title in enumerate(head))
    body = "".join(f"<tr>{_cells(cells, texts)}</tr>" for cells in rows)
    kind = f' class="{wide}"' if wide else ""
    return scrolled(label, f"<table{kind}><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>")


def _cells(cells: Sequence[str], texts: int) -> str:
    first, *others = cells
    tag = 'th scope="row"' if texts else "td"
    start = first if isinstance(first, Markup) else _cell(first, texts > 0, tag)
    return start + "".join(_cell(cell, index + 1 < texts, "td") for index, cell in enumerate(others))


def _cell(text: str, is_text: bool, tag: str) -> str:
    kind = "" if is_text else ' class="n"'
    return f"<{tag}{kind}>{escape(text)}</{tag.partition(' ')[0]}>"
