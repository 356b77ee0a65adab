"""Matplotlib figures as SVG inside a page, in the page's own colours.

Figures use placeholder colours, each of which becomes a CSS variable, so that a figure follows the
page from light to dark. Text stays text, and an element with a `gid` can be found by it.
"""

from __future__ import annotations

import functools
import html
import io
import re
import threading
from collections.abc import Callable
from typing import Any, ParamSpec

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

P = ParamSpec("P")
INK, MUTED, FAINT, FIRST, SECOND = (f"#00000{i}" for i in range(1, 6))
"""Text and axes; less important text; grid lines; the diffusion; the guidance."""
_VARIABLES = {INK: "ink", MUTED: "muted", FAINT: "faint", FIRST: "first", SECOND: "second"}
NUM_COLOURS = 14
"""Colours for classes; the next class takes the first one again."""

_STYLE: Any = {  # matplotlib types its keys one by one
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "figure.constrained_layout.use": True,
    # Every point of a curve is kept, so that it can be read back.
    "path.simplify": False,
    # Names of classes are text, also those with two dollar signs.
    "text.parse_math": False,
}


_LOCK = threading.Lock()
"""Matplotlib has one style per process, and the served page draws in several threads."""


def styled(draw: Callable[P, str]) -> Callable[P, str]:
    """A function that draws in the style of the page."""

    @functools.wraps(draw)
    def run(*args: P.args, **kwargs: P.kwargs) -> str:
        with _LOCK, matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return run


def shown(name: str) -> str:
    """A name as text: file names can have bytes that are none, and a legend leaves out what begins
    with an underscore."""
    known = name.encode("utf-8", "replace").decode()
    return f"\u200b{known}" if known.startswith("_") else known


def colour(c: int) -> str:
    """The placeholder colour of a class."""
    return f"#0001{c % NUM_COLOURS:02x}"


def new_figure(
    width: float, height: float, columns: int = 1, rows: int = 1, **grid: object
) -> tuple[Figure, list[Axes]]:
    """A figure of a size in inches; on a phone, 3.6 wide has text of about 11 pixels."""
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw=grid)
    return figure, list(axes.flat)


def to_svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an `<svg>` element; its ids begin with the name, unique on the page."""
    text = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"#000[01][0-9a-f]{2}\b", _variable, svg)
    head = f'<svg role="img" aria-label="{html.escape(shown(title))}" '
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view is not None
    body = svg[svg.index(">") + 1 :]
    # A page may allow no style elements; its own sheet has what matplotlib's says.
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"\s*\n\s*", "\n", body)
    return f'{head}{view.group()} xmlns:xlink="http://www.w3.org/1999/xlink">{body}'


def _variable(found: re.Match[str]) -> str:
    name = _VARIABLES.get(found.group())
    return f"var(--{name})" if name else f"var(--c{int(found.group()[-2:], 16)})"
