"""A report as one HTML file: figures inside, no network, everything escaped; read on a phone, a screen or on paper."""

from __future__ import annotations

import base64
import html
import re
from pathlib import Path

from analysis.report_content import (
    Answers,
    Block,
    Bullets,
    Example,
    OptionLine,
    Paragraph,
    Picture,
    Report,
    Section,
    Table,
)
from analysis.report_page import SCRIPT, STYLE

_CODE = re.compile(r"`([^`]*)`")
_LONG_ROWS = 30
"""A table of more rows scrolls in a window of its own; on paper it is whole."""
_TOGETHER = re.compile(r"\([^()]* (?:to|of) [^()]*\)|\bn = [\d,]*\d")
"""An interval and an n stay in one line."""
# nothing is loaded from anywhere: a text that slipped through could do no harm either
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def to_html(report: Report, folder: Path) -> str:
    """Return the whole page.

    Args:
        report: What is shown.
        folder: Where its figures lie.

    Raises:
        OSError: when a figure cannot be read.
    """
    title = inline(report.title)
    links = "".join(f'<li><a href="#{_anchor(one.title)}">{inline(one.title)}</a></li>' for one in report.sections[1:])
    sections = [_section(section, folder) for section in report.sections]
    contents = f"<nav><h2>What else is here</h2><ul>{links}</ul></nav>"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(report.title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{title}</h1>\n" + "\n".join([sections[0], contents, *sections[1:]]) + f"\n</main>\n<script>\n{SCRIPT}"
        "</script>\n</body>\n</html>\n"
    )


def inline(text: str) -> str:
    """Return a text with every character of HTML escaped, and code marked."""
    return _CODE.sub(r"<code>\1</code>", html.escape(text).replace("/", "/<wbr>"))


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _section(section: Section, folder: Path) -> str:
    blocks = "\n".join(_block(block, folder) for block in section.blocks)
    return f'<section id="{_anchor(section.title)}">\n<h2>{inline(section.title)}</h2>\n{blocks}\n</section>'


def _block(block: Block, folder: Path) -> str:
    match block:
        case Paragraph():
            return f"<p>{inline(block.text)}</p>"
        case Bullets():
            return "<ul>" + "".join(f"<li>{inline(line)}</li>" for line in block.lines) + "</ul>"
        case Answers():
            pairs = "".join(f"<dt>{inline(asked)}</dt><dd>{inline(said)}</dd>" for asked, said in block.pairs)
            return f"<dl>{pairs}</dl>"
        case Table():
            return _table(block)
        case Picture():
            return _picture(block, folder)
        case Example():
            return _example(block)


def _table(table: Table) -> str:
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{inline(cell)}</button></th>' for cell in table.head
    )
    rows = "\n".join(
        "<tr>"
        + f'<th scope="row">{inline(row[0])}</th>'
        + "".join(f"<td>{_cell(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in table.rows
    )
    caption, kind = inline(table.caption), "table long" if len(table.rows) > _LONG_ROWS else "table"
    return (
        f'<p class="caption">{caption}</p>\n'
        f'<div class="{kind}" tabindex="0" role="region" aria-label="{html.escape(table.caption)}">\n<table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def _cell(text: str) -> str:
    return _TOGETHER.sub(r'<span class="interval">\g<0></span>', inline(text))


def _picture(picture: Picture, folder: Path) -> str:
    data = base64.b64encode((folder / picture.file).read_bytes()).decode()
    alt = html.escape(picture.alt)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{alt}"></figure>'


def _example(example: Example) -> str:
    options = "".join(map(_option, example.options))
    return (
        f'<article><h3>{inline(example.heading)}</h3>\n<p class="question">{html.escape(example.question)}</p>\n'
        f'<ul class="options">{options}</ul></article>'
    )


def _option(option: OptionLine) -> str:
    note = f" <strong>{html.escape(option.note)}</strong>" if option.note else ""
    kind = f' class="{option.note}"' if option.note else ""
    text = f"{html.escape(option.letter)}: {html.escape(option.text)}"
    return f'<li{kind}>{text} <span class="number">{html.escape(option.probability)}</span>{note}</li>'
