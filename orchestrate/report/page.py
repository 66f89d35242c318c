"""The page: one HTML file that stands alone.

The template and the style sheet are in the folder of this file.  The template escapes whatever it is given; only
figures are markup, and their texts were escaped when they were drawn.
"""

from __future__ import annotations

from importlib.resources import files

import jinja2
from markupsafe import Markup

from orchestrate.report.contents import Contents
from orchestrate.report.facts import EXPERIMENTS


def html_page(contents: Contents) -> str:
    """Lay a report out as a page."""
    here = files(__package__)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(here.joinpath("page.html").read_text(encoding="utf-8"))
    style = Markup(here.joinpath("style.css").read_text(encoding="utf-8"))
    return template.render(style=style, report=contents, ui=EXPERIMENTS)
