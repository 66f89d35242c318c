"""The page and the PDF show the same: every kind of block, every text as it is, and nothing beyond a page's edge."""

from __future__ import annotations

import html
import io
import re
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pypdf
import pytest
import typst
from markupsafe import Markup
from PIL import Image

from orchestrate.config.shipped import CONFIGS
from orchestrate.document.blocks import Answer, Block, Cell, Commands, Examples, Pair, Plot, Section, Statement, Table
from orchestrate.document.record import Record
from orchestrate.jobs.registry import JOBS
from orchestrate.report.contents import Contents
from orchestrate.report.page import html_page
from orchestrate.report.pdf import FONTS, pdf_document, sources_of
from orchestrate.report.questions import QUESTIONS, answers

HOSTILE = [
    '#eval("1") #import "x" $x^2$ @label <label> [not] {content} *bold* _it_',
    "\\ \\\\ \\u{41} ~ -- // ```raw``` <script>&amp; %d %s {{x}} {% y %}",
    "= Heading\n- list\n+ enum\n/ term: x",
    "данные Ελληνικά עברית mood 😀",
]


def blocks_with(text: str) -> dict[type, Block]:
    """One block of each kind that says ``text`` wherever it says anything."""
    said = html.escape(text)
    drawn = Markup(f'<svg viewBox="0 0 9 9" width="99" height="99" aria-label="{said}"><text y="9">{said}</text></svg>')
    return {
        Table: Table(text, ["", text], [[Cell(text), Cell(text, text, 0.5)]], text, "heat"),
        Plot: Plot(drawn, text, "heat"),
        Examples: Examples(text, [Pair(text, text, text)]),
        Commands: Commands(text, [text]),
    }


def contents(*blocks: Block, title: str = "A title", text: str = "A text") -> Contents:
    answer = Answer("Step 4", text, "question-1", True, [Statement(text), Statement(text, True)], blocks)
    section = Section(
        1, text, text, "step-1", text, True, "1 s", text, text, [(text, text)], text, blocks, (), [("question-1", text)]
    )
    return Contents(title, [text], [], [answer], [], [], [section], [(text, text)], text, [text], [text], [], True)


def read(document: bytes) -> str:
    """The words of a PDF, with single spaces."""
    pages = pypdf.PdfReader(io.BytesIO(document)).pages
    return " ".join(" ".join(page.extract_text() for page in pages).split())


def letters(text: str) -> str:
    """A text without what a line break may add or take away."""
    return re.sub(r"[\s\u00a0-]", "", text)


def test_every_kind_of_block_is_shown_in_the_page_and_in_the_pdf():
    samples = blocks_with("Needle")
    assert set(samples) == set(get_args(Block))
    for block in samples.values():
        given = contents(block)
        without = replace(given, answers=[replace(given.answers[0], blocks=[])], sections=[])
        for said in (html_page, lambda one: read(pdf_document(one))):
            assert "Needle" in said(given)
            assert "Needle" not in said(without)


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_data_is_shown_as_it_is_wherever_it_stands(text: str):
    given = contents(*blocks_with(text).values(), title=text, text=text)
    page, document = html_page(given), read(pdf_document(given))
    assert html.escape(text, quote=False).replace('"', "&#34;").replace("'", "&#39;") in page
    if not re.search("[\u0590-\u05ff]", text):  # a script that runs leftwards is read out in another order
        assert letters(document).count(letters(text)) > 8


def test_the_same_contents_give_the_same_bytes_without_a_time():
    given = contents(*blocks_with("x").values())
    document = pdf_document(given)
    assert document == pdf_document(given)
    assert b"CreationDate" not in document
    assert b"ModDate" not in document


def large(sites: int, columns: int) -> Table:
    names = [f"model.layers.{n // 7}.self_attn.a_rather_long_projection_name_{n}" for n in range(sites)]
    header = ["Site", *(f"at {n} bits of a wide heading" for n in range(columns))]
    rows = [[Cell(name), *(Cell(f"{n}.25 [{n}.12, {n}.38]", heat=0.4) for n in range(columns))] for name in names]
    return Table("A large table", header, rows, "A note", "heat")


def test_nothing_lies_beyond_the_margin_at_210_sites_and_what_is_left_out_is_counted():
    bitmap = "h.0.attn.c_attn=" + "w4a8kv8g128," * 60
    word, table = "x" * 300, large(210, 17)
    tall = '<svg viewBox="0 0 500 3000" width="500" height="3000"><rect width="500" height="3000"/></svg>'
    blocks = table, Plot(Markup(tall), "Taller than a page", "tall"), Commands("Made by", [f"qalof train {bitmap}"])
    given = contents(*blocks, title=word, text=f"{word} {bitmap}")
    given = replace(given, sections=[replace(given.sections[0], blocks=())])
    text = read(pdf_document(given))
    assert "186 rows between them" in text
    for name in (row[0].text for row in (*table.rows[:12], *table.rows[-12:])):
        assert letters(name) in letters(text)
    for column in range(17):
        assert f"{column}.25 [{column}.12, {column}.38]" in text.replace("\u00a0", " ")
    sources: Any = sources_of(given)
    for page in typst.compile(sources, format="png", ppi=30, font_paths=[str(FONTS)]):
        pixels = np.asarray(Image.open(io.BytesIO(page)).convert("L"))
        edge = round(1.4 / 2.54 * 30)  # margins are 2 cm wide
        for strip in (pixels[:, :edge], pixels[:, -edge:], pixels[:edge], pixels[-edge // 2 :]):
            assert strip.min() == 255


def test_a_question_that_was_not_run_is_said_to_be_not_run_with_a_command_that_would_answer_it(tmp_path):
    given = answers(Record(tmp_path, "none", (), single=False, listed=True, seconds=None), [], [], ())
    assert len(given) == len(QUESTIONS) == 6
    for answer in given:
        assert not answer.measured
        assert re.match("Not run|Nothing follows", answer.statements[0].text)
        lines = [line for block in answer.blocks if isinstance(block, Commands) for line in block.lines]
        assert lines
        for line in lines:
            program, command, *words = line.split()
            assert program == "qalof"
            assert command in {*JOBS, "run", "demo"}
            for name in words[words.index("--config") + 1 :][:1] if words else ():
                assert CONFIGS.parent.joinpath(name).is_file()
