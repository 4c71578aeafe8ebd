"""Pieces of HTML that pages share, and the page around them."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Container, Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from traj.analysis._drawing.style import STYLE

POINTS, DPI = 500, 150
"""A drawing of more points is shown as pixels, so many an inch, as is one of images: as lines it takes over 100 kB."""

NARROW = 700
"""Pixels of a screen on which the narrow one of two figures is shown."""

SVG = {"Date": None, "Creator": None}
"""Nothing in a drawing that differs from day to day."""

CSS = """
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; color: #222; background:
  #fff; max-width: 1080px; margin: 0 auto; padding: 1.5rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0.5rem 0 1rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 0.5rem; padding-top: 0.7rem; border-top: 1px solid #ddd; }
h3 { font-size: 1rem; margin: 1.6rem 0 0.3rem; } p, ul, ol, dl { max-width: 47rem; } li { margin: 0.25rem 0; }
nav { margin: 0 0 1rem; } nav a { margin-right: 1.2rem; white-space: nowrap; } a { color: #0b5394; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.25rem 1rem; }
dt { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: 0.9em; } dd { margin: 0; }
summary { cursor: pointer; color: #0b5394; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.88rem; font-variant-numeric: tabular-nums; margin: 0.5rem 0 1rem; }
th, td { padding: 0.3rem 0.8rem 0.3rem 0; border-bottom: 1px solid #e4e4e4; text-align: left; }
td { vertical-align: top; } th { font-weight: 600; }
.number { text-align: right; white-space: nowrap; } .words { min-width: min(16rem, 45vw); }
figure { margin: 0.8rem 0 1.5rem; } figure img { max-width: 100%; height: auto; display: block; }
figcaption { font-size: 0.9rem; color: #444; max-width: 56rem; margin-top: 0.4rem; }
.swatch { display: inline-block; width: 0.8em; height: 0.8em; border-radius: 2px; margin-right: 0.5em; }
.run { display: inline-block; max-width: 40rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
  vertical-align: bottom; }
.remarks { border-left: 3px solid #e69f00; padding: 0.2rem 0 0.2rem 1rem; font-size: 0.9rem; }
.doubt { color: #8a5a00; } code { font-size: 0.9em; }
"""


def page(title: str, body: str, up: str = "") -> bytes:
    """Write a page that needs nothing else; up is the address of the page above it. Names may be no UTF-8."""
    above = f'<nav><a href="{up}">← all runs</a></nav>\n' if up else ""
    html = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{CSS}</style>
</head>
<body>
{above}<h1>{escape(title)}</h1>
{body}
</body>
</html>
"""
    return html.encode(errors="replace")


def figure(drawn: Figure, caption: str, alt: str) -> str:
    """Show a figure with what it says."""
    said = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    width = round(100 * drawn.get_figwidth())
    return f'<figure><img width="{width}" alt="{escape(alt)}" src="{_data_uri(drawn)}">{said}</figure>\n'


def two_figures(wide: Figure, narrow: Figure, caption: str, alt: str, name: str) -> tuple[dict[str, bytes], str]:
    """Show one figure, and another in its place on narrow screens; the former is also given as files called name."""
    files = {f"{name}.svg": _saved(wide, format="svg", metadata=SVG), f"{name}.png": _png(wide, 2 * DPI)}
    sources = (_embedded("png", png) for png in (files[f"{name}.png"], _png(narrow, 2 * DPI)))
    width, small = (round(100 * one.get_figwidth()) for one in (wide, narrow))
    large, other = sources
    links = " ".join(f'<a href="{file}">{file}</a>' for file in files)
    return files, (
        f'<figure><picture><source media="(max-width: {NARROW}px)" srcset="{other}" width="{small}">'
        f'<img width="{width}" alt="{escape(alt)}" src="{large}"></picture>'
        f"<figcaption>{escape(caption)} For talks: {links}</figcaption></figure>\n"
    )


def _data_uri(drawn: Figure) -> str:
    """Turn a figure into an image within the page, the same bytes each time: pixels where a drawing is large."""
    if any(axis.images for axis in drawn.axes):
        return _embedded("png", _png(drawn, DPI))
    if _points(drawn) > POINTS:
        return _embedded("png", _of_few_colours(_png(drawn, DPI, compress_level=0)))
    return _embedded("svg+xml", _saved(drawn, format="svg", metadata=SVG))


def _points(drawn: Figure) -> int:
    """Count the points of a figure's lines and areas."""
    lines = [line.get_path() for axis in drawn.axes for line in axis.lines]
    areas = [path for axis in drawn.axes for area in axis.collections for path in area.get_paths()]
    return sum(np.shape(path.vertices)[0] for path in (*lines, *areas))


def _embedded(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()


def _png(drawn: Figure, dpi: int, **options: int) -> bytes:
    return _saved(drawn, format="png", dpi=dpi, metadata={"Software": None}, pil_kwargs=options)


def _saved(drawn: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the page itself has the name beside its colour
        if layout := drawn.get_layout_engine():  # once: to save would lay it out, and draw it, twice
            layout.execute(drawn)
            drawn.set_layout_engine("none")
        drawn.savefig(buffer, **options)
    return buffer.getvalue()


def _of_few_colours(png: bytes) -> bytes:
    """Write an image with at most 128 colours, in a third of the bytes."""
    buffer = io.BytesIO()
    few = Image.open(io.BytesIO(png)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    few.save(buffer, "png")
    return buffer.getvalue()


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Container[int] = ()) -> str:
    """Set a table of HTML, the columns of numbers to the right."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f'<{tag} class="number">{cell}</{tag}>' if i in numbers else f"<{tag}>{cell}</{tag}>"
            for i, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>\n" for row in rows)
    return f'<div class="wide"><table><thead><tr>{cells("th", head)}</tr></thead><tbody>\n{body}</tbody></table></div>'


def link(name: str, folder: str, colours: Mapping[str, Any]) -> str:
    """Name a run beside its colour, linked to its page in a folder."""
    return f'<a href="{folder}{quote(name)}.html">{named(name, colours)}</a>'


def named(name: str, colours: Mapping[str, Any]) -> str:
    """Name a run beside its colour."""
    return f'<span class="run"><span class="swatch" style="background:{colours[name]}"></span>{escape(name)}</span>'


def breakable(text: str) -> str:
    """Write a long name, such as a model's with its options, that may go on in the next line after a comma or colon."""
    return re.sub("([,:/])", r"\1<wbr>", escape(text))


def words(text: str) -> str:
    """Head a column of sentences: it keeps its width, however many columns stand beside it."""
    return f'<div class="words">{escape(text)}</div>'


def remarks(said: Sequence[str], title: str = "") -> str:
    """Say what is missing or out of step, nothing where nothing is."""
    items = "".join(f"<li>{escape(text)}</li>" for text in said)
    return f'<div class="remarks">{title}<ul>{items}</ul></div>' if said else ""


def count(number: int | None) -> str:
    """Write a count, a dash for none."""
    return f"{number:,}" if number else "–"


def number(value: float | None, places: int | None = None) -> str:
    """Write a number, all of it or to so many places after the point; a dash for none."""
    return "–" if value is None else (f"{value:g}" if places is None else f"{value:.{places}f}").replace("-", "−")
