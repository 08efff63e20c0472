"""Equations of the documentation as SVG, drawn when the site is built, so that readers need no script, font or network.

Draws ``$a_i$`` in a line and fenced blocks of the language ``math``, both in LaTeX, as GitHub does. An extension
of Python-Markdown; ``zensical.toml`` names it.
"""

from __future__ import annotations

import html
from re import Match
from typing import Any
from xml.etree import ElementTree

from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from ziamath.config import config
from ziamath.zmath import Latex

INLINE = r"(?<![\\$\w])\$(?!\s)([^$\n]+?)(?<!\s)\$(?![\w$])"
PRIORITY = 185  # after code spans (190), before backslash escapes (180)
SIZE = 20
"""Units of the drawing that are one em on the page."""

config.svg2 = False  # without symbols, whose names two equations of a page would share


def draw(latex: str, *, inline: bool) -> str:
    """An equation as an ``<svg>`` in the colour and size of the text around it, its LaTeX as the alternative text."""
    equation = Latex(latex, size=SIZE, inline=inline, color="currentColor")
    svg = equation.svgxml()
    for side in ("width", "height"):
        svg.set(side, f"{float(svg.attrib[side]) / SIZE:.4f}em")
    if inline:
        svg.set("style", f"vertical-align: {equation.getyofst() / SIZE:.4f}em")
    svg.set("role", "img")
    svg.set("aria-label", latex)
    return ElementTree.tostring(svg, encoding="unicode")


class InlineEquation(InlineProcessor):
    """One equation in a line of text."""

    def handleMatch(self, m: Match[str], data: str) -> tuple[str, int, int]:  # type: ignore[override]  # noqa: N802
        """The placeholder of the drawing, and where the equation stood."""
        return self.md.htmlStash.store(draw(html.unescape(m.group(1)), inline=True)), m.start(0), m.end(0)


class Equations(Extension):
    """Adds ``$...$`` to Markdown."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Register the inline pattern."""
        md.inlinePatterns.register(InlineEquation(INLINE, md), "equation", PRIORITY)


def makeExtension(**options: Any) -> Equations:  # noqa: N802
    """Called by Python-Markdown."""
    return Equations(**options)


def fence(source: str, language: str, css_class: str, options: Any, md: Markdown, **rest: Any) -> str:
    """A fenced block of LaTeX as one displayed equation, for ``pymdownx.superfences``."""
    return f'<div class="{css_class}">{draw(" ".join(source.split()), inline=False)}</div>'
