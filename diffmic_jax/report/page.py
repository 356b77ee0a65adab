"""Pieces of HTML: tables, sections, figures, images. All text that is not HTML is escaped."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from diffmic_jax.report.style import CSS

REACHABLE = ' tabindex="0" role="group" aria-label="table"'
"""Of what may scroll: also with a keyboard."""


class Raw(str):
    """Text that is HTML already."""


def text(value: object) -> str:
    """Anything as HTML."""
    if isinstance(value, Raw):
        return value
    # Names of files can have bytes that are no text.
    return html.escape(str(value).encode("utf-8", "replace").decode())


def number(value: float | None, digits: int = 3) -> str:
    """A number, or a dash where it is undefined."""
    return "-" if value is None or np.isnan(value) else f"{value:.{digits}f}"


def with_interval(value: float | None, interval: Sequence[float] | None) -> Raw:
    """A number and, smaller, its 95% interval."""
    if interval is None:
        return Raw(number(value))
    low, high = map(number, interval)
    return Raw(f"{number(value)} <small>({low} to {high})</small>")


def table(
    header: Sequence[object], rows: Iterable[Sequence[object]], name: str = "", kind: str = ""
) -> Raw:
    """A table, which scrolls sideways where it is too wide.

    One of the kind `stack` has on a phone each row as a block instead, each cell with its title.
    """
    head = "".join(f'<th scope="col">{text(cell)}</th>' if cell else "<td></td>" for cell in header)
    titles = [f' data-title="{html.escape(str(cell))}"' * (kind == "stack") for cell in header]
    body = "".join(
        "<tr>"
        + "".join(f"<td{title}>{text(cell)}</td>" for title, cell in zip(titles, row, strict=True))
        + "</tr>\n"
        for row in rows
    )
    ident = f' id="{name}"' if name else ""
    return Raw(
        f'<div class="wide"{REACHABLE}><table{ident} class="{kind}">'
        f"<thead><tr>{head}</tr></thead>\n"
        f"<tbody>{body}</tbody></table></div>\n"
    )


def confusion(counts: Sequence[Sequence[int]], names: Sequence[str]) -> Raw:
    """The confusion matrix, coloured by the share of each label."""
    rows = []
    for name, row in zip(names, counts, strict=True):
        cells = []
        for count in row:
            share = count / max(sum(row), 1)
            # At half of the strength its number can be read in light and dark.
            style = f"background: rgb(var(--heat) / {share / 2:.2f})"
            cells.append(f'<td style="{style}" title="{share:.0%}">{count}</td>')
        rows.append(f"<tr><td>{text(name)}</td>{''.join(cells)}</tr>")
    head = "".join(f'<th scope="col"><span>{text(name)}</span></th>' for name in names)
    return Raw(
        f'<div class="wide"{REACHABLE}><table id="confusion" class="confusion">'
        f"<thead><tr><th>label \\ predicted</th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def figure(svg: str) -> Raw:
    """A figure in a frame."""
    return Raw(f"<figure>{svg}</figure>\n")


def grid(items: Iterable[str], kind: str = "") -> Raw:
    """Items side by side, as many as fit."""
    return Raw(f'<div class="grid {kind}">{"".join(items)}</div>\n')


def paragraph(content: object, kind: str = "") -> Raw:
    """A paragraph."""
    return Raw(f'<p class="{kind}">{text(content)}</p>\n')


def picture(pixels: np.ndarray) -> str:
    """[H, W, 3] or [H, W, 4] uint8 as a data URI: PNG, or JPEG where that would be large."""
    image = Image.fromarray(pixels)
    best = io.BytesIO()
    image.save(best, "PNG", optimize=True)
    if pixels.shape[2] == 3 and best.tell() > 12_000:
        best = io.BytesIO()
        image.save(best, "JPEG", quality=88)
        kind = "jpeg"
    else:
        kind = "png"
    return f"data:image/{kind};base64,{base64.b64encode(best.getvalue()).decode()}"


def document(title: str, head: Sequence[str], sections: Sequence[tuple[str, str, str]]) -> str:
    """The page.

    Args:
      title: of the page.
      head: what comes before the first section.
      sections: name, title and content of each.
    """
    links = "".join(f'<a href="#{name}">{text(heading)}</a>' for name, heading, _ in sections)
    body = "".join(
        f'<section id="{name}"><h2>{text(heading)}</h2>\n{content}</section>\n'
        for name, heading, content in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{text(title)}</title>\n<style>{CSS}</style></head>\n<body>\n"
        f"<header><h1>{text(title)}</h1>\n{''.join(head)}</header><nav>{links}</nav>\n"
        f"<main>{body}</main></body></html>\n"
    )
