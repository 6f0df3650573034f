"""An evaluation as one HTML file that needs nothing else: no network, no fonts, no server.

All numbers and tables are written here and read without scripts; `page/page.js` adds sorting, the
filter and the large confusion matrices. Names and paths are escaped, and the page's own policy lets
no script run but that one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template

from vtcli.evaluation.results import (
    Estimate,
    EvaluationReport,
    FailureRow,
    HeadlineRow,
    HeadResult,
    Misclassification,
    PerClassResult,
    percent,
)
from vtcli.report.evaluation import (
    by_reason,
    counts_in_words,
    failure_in_words,
    speed_in_words,
    worst_first,
)
from vtcli.report.tables import plural, points
from vtcli.runtime.files import atomic_write

PAGE = Path(__file__).parent / "page"
MOST_LABELLED = 24
"""Up to this many classes a confusion matrix is a table with names and counts."""
PAIRS_SHOWN = 15
FAILURES_SHOWN = 200
BINS = 10
AXIS = 200


def write_html(report: EvaluationReport, path: Path) -> None:
    """Write the page; it appears under its name only when whole.

    Raises `DataError` where it cannot be written.
    """
    # A path that is not UTF-8 has no faithful form in a page; a question mark stands in its place.
    page = _page(report).encode("utf-8", "replace")
    with atomic_write(path, len(page)) as part:
        part.write_bytes(page)


def _page(report: EvaluationReport) -> str:
    sections = list(_sections(report))
    script = (PAGE / "page.js").read_text("utf-8")
    # The digest is of all between the tags, where the template has a line break at either end.
    digest = base64.b64encode(hashlib.sha256(f"\n{script}\n".encode()).digest()).decode()
    return Template((PAGE / "page.html").read_text("utf-8")).substitute(
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'",
        title=escape(report.title),
        style=(PAGE / "page.css").read_text("utf-8"),
        script=script,
        head=_head(report, [(anchor, title) for anchor, title, _ in sections]),
        sections="\n".join(_section(*section) for section in sections),
        foot="<p>Intervals hold 95 %. Top-1 and top-5: Wilson's score interval. Mean class: "
        "bootstrap within classes.</p>",
    )


def _sections(report: EvaluationReport) -> Iterator[tuple[str, str, str]]:
    """Anchor, title and content of each."""
    yield "figures", "Accuracy", _figures(report)
    yield "counts", "What was read", _counts(report)
    several = len(report.heads) > 1
    for number, head in enumerate(report.heads):
        if head.n_read:
            of_head = f" of {head.name}" if several else ""
            yield f"confusion-{number}", f"Confusion{of_head}", _confusion(head)
            yield f"classes-{number}", f"Classes{of_head}", _classes(head, number)
    if report.mistakes:
        yield "mistakes", "Worst mistakes", _mistakes(report.mistakes)
    yield "settings", "Settings", _settings(report)


def _section(anchor: str, title: str, content: str) -> str:
    return (
        f'<section id="{anchor}" aria-labeledby="{anchor}-title">\n'
        f'<h2 id="{anchor}-title">{escape(title)}</h2>\n{content}\n</section>'
    )


def _name(text: str) -> str:
    """A name as it is, set apart so that its writing direction stays its own."""
    return f"<bdi>{escape(text)}</bdi>"


def _bar(share: float, words: str, kind: str = "") -> str:
    return (
        f'<div class="bar"><span class="track {kind}" style="--width:{100 * share:.2f}%"><i></i>'
        f'</span><span class="value">{words}</span></div>'
    )


# --- head and figures ---------------------------------------------------------------------------


def _head(report: EvaluationReport, sections: Iterable[tuple[str, str]]) -> str:
    parts = [
        f"<h1>{_name(report.title)}</h1>",
        f'<p class="lead">{escape(report.protocol)}</p>',
    ]
    if report.differs:
        parts.append(_callout("Not the published protocol:", report.differs))
    parts += [_callout("Warning:", warning) for warning in report.warnings]
    links = "".join(
        f'<li><a href="#{anchor}">{escape(title)}</a></li>' for anchor, title in sections
    )
    parts.append(f'<nav aria-label="Sections"><ul>{links}</ul></nav>')
    return "\n".join(parts)


def _callout(title: str, words: str) -> str:
    return f'<p class="callout" role="note"><strong>{title}</strong> {escape(words)}</p>'


def _figures(report: EvaluationReport) -> str:
    return f'<div class="headline">{_hero(report)}{_figure_table(report)}</div>{_key(report)}'


def _hero(report: EvaluationReport) -> str:
    first = report.figures[0]
    if first.read is None:
        return (
            '<div class="hero"><span class="name">Nothing was read</span><b>–</b>'
            "<span>see the failures below</span></div>"
        )
    lines = [f"{percent(first.read.low)} to {percent(first.read.high)}"]
    if first.over_all and report.read != report.expected:
        lines[0] += ", over what was read"
        lines.append(f"{percent(first.over_all.value)} % over all expected")
    if first.published is not None:
        lines.append(f"published {first.published:.1f} % ({points(first.difference)})")
    return (
        f'<div class="hero"><span class="name">{escape(first.label)}</span>'
        f"<b>{percent(first.read.value)}<small> %</small></b>"
        + "".join(f'<span class="soft">{line}</span>' for line in lines)
        + "</div>"
    )


def _figure_table(report: EvaluationReport) -> str:
    """Columns that would say nothing, or the same as another, are left out."""
    rows = report.figures
    low, high = _domain(rows)
    all_read = report.read == report.expected
    columns = {"ours" if all_read else "over what was read": [_figure(row.read) for row in rows]}
    if not all_read:
        columns["over all expected"] = [_figure(row.over_all) for row in rows]
    if any(row.published is not None for row in rows):
        columns["published"] = [_stated(row.published) for row in rows]
        columns["difference"] = [points(row.difference) for row in rows]
    head = '<th scope="col">per cent</th>' + "".join(
        f'<th scope="col" class="number">{words}</th>' for words in columns
    )
    head += f'<td class="chart" aria-hidden="true">{_axis_head(low, high)}</td>'
    lines = zip(rows, zip(*columns.values(), strict=True), strict=True)
    body = "\n".join(
        f'<tr><th scope="row">{escape(row.label)}</th>'
        + "".join(f'<td class="number">{cell}</td>' for cell in cells)
        + f'<td class="chart" aria-hidden="true">{_whisker(row, low, high)}</td></tr>'
        for row, cells in lines
    )
    return f'<table class="figures"><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>'


def _figure(figure: Estimate | None) -> str:
    if figure is None:
        return '<span class="soft">–</span>'
    interval = f"{percent(figure.low)} to {percent(figure.high)}"
    return f"<b>{percent(figure.value)}</b><span>{interval}</span>"


def _stated(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _domain(rows: Sequence[HeadlineRow]) -> tuple[int, int]:
    """The tens of per cent between which all figures lie."""
    values = [row.published for row in rows if row.published is not None]
    for figure in (f for row in rows for f in (row.read, row.over_all) if f is not None):
        values += [100 * figure.low, 100 * figure.high]
    low = math.floor(min(values, default=0) / 10) * 10
    high = math.ceil(max(values, default=100) / 10) * 10
    return low, max(high, low + 10)


def _position(value: float, low: int, high: int) -> float:
    return round(AXIS * (value - low) / (high - low), 2)


def _axis_head(low: int, high: int) -> str:
    return (
        f'<svg viewBox="0 0 {AXIS} 22"><text x="0" y="16">{low}</text>'
        f'<text x="{AXIS}" y="16" text-anchor="end">{high}</text></svg>'
    )


def _whisker(row: HeadlineRow, low: int, high: int) -> str:
    marks = [f'<line class="axis" x1="0" x2="{AXIS}" y1="11" y2="11"/>']
    if row.published is not None:
        x = _position(row.published, low, high)
        marks.append(f'<line class="stated" x1="{x}" x2="{x}" y1="2" y2="20"/>')
    if row.over_all and row.over_all != row.read:
        x = _position(100 * row.over_all.value, low, high)
        marks.append(f'<circle class="ring" cx="{x}" cy="11" r="3.5"/>')
    if row.read:
        ends = [_position(100 * end, low, high) for end in (row.read.low, row.read.high)]
        x = _position(100 * row.read.value, low, high)
        marks.append(f'<line class="whisker" x1="{ends[0]}" x2="{ends[1]}" y1="11" y2="11"/>')
        marks.append(f'<circle class="dot" cx="{x}" cy="11" r="4"/>')
    return f'<svg viewBox="0 0 {AXIS} 22">{"".join(marks)}</svg>'


def _key(report: EvaluationReport) -> str:
    all_read = report.read == report.expected
    ours = "ours" if all_read else "over what was read"
    items = [('<circle class="dot" cx="11" cy="7" r="4"/>', f"{ours}, 95 % interval")]
    if not all_read:
        words = "over all expected: what was not read counts as wrong"
        items.append(('<circle class="ring" cx="11" cy="7" r="3.5"/>', words))
    if report.published and any(row.published is not None for row in report.figures):
        source = f": {report.published.source}" if report.published.source else ""
        mark = '<line class="stated" x1="11" x2="11" y1="0" y2="14"/>'
        items.append((mark, f"published{source}; the difference is over what was read, in points"))
    return '<p class="keys small soft">{}</p>'.format(
        "".join(
            f'<span class="key"><svg viewBox="0 0 22 14" aria-hidden="true">{mark}</svg>'
            f"{escape(words)}</span>"
            for mark, words in items
        )
    )


# --- what was read ------------------------------------------------------------------------------


def _counts(report: EvaluationReport) -> str:
    whole = max(1, report.expected)
    parts = "".join(
        f'<i class="{kind}" style="width:{100 * n / whole:.3f}%"></i>'
        for kind, n in (("read", report.read), ("failed", report.failed))
        if n
    )
    speed = speed_in_words(report)
    words = f"<strong>{counts_in_words(report)}</strong>"
    if speed:
        words += f' <span class="soft">in {speed}</span>'
    if not report.failures:
        return f'<p>{words}</p><div class="counts" aria-hidden="true">{parts}</div>'
    groups = by_reason(report.failures).items()
    listed = "\n".join(
        f"<details{' open' if len(group) <= 5 else ''}><summary>{escape(reason)}: "
        f"{plural(len(group), 'video')}</summary>"
        f"<ol>{''.join(_failure_items(group))}</ol></details>"
        for reason, group in groups
    )
    return f'<p>{words}</p><div class="counts" aria-hidden="true">{parts}</div>\n{listed}'


def _failure_items(group: Sequence[FailureRow]) -> Iterator[str]:
    for failure in group[:FAILURES_SHOWN]:
        yield f"<li>{_name(failure_in_words(failure))}</li>"
    if len(group) > FAILURES_SHOWN:
        yield f'<li class="soft">and {len(group) - FAILURES_SHOWN:,} more</li>'


# --- confusion ----------------------------------------------------------------------------------


def _confusion(head: HeadResult) -> str:
    if len(head.classes) <= MOST_LABELLED:
        return (
            f'<div class="confusion labeled"><div class="scroll">{_labeled_matrix(head)}</div>'
            f"<div>{_pairs(head)}</div></div>"
        )
    return (
        '<div class="confusion matrix-part">'
        '<div><div class="matrix"><p class="across">answer →</p><div class="plot">'
        '<p class="down" aria-hidden="true">← target</p>'
        '<canvas class="big" tabindex="0" role="application" aria-label="Confusion matrix: rows '
        'are the target, columns the answers. Arrow keys move from cell to cell."></canvas></div>'
        '<span class="over"></span></div>'
        '<p class="small soft">Point at a cell, or move with the arrow keys (with shift by ten). '
        "Color: share of the row; right answers in blue, wrong ones in orange.</p></div>"
        '<div><div class="reading" aria-live="polite">'
        '<p class="label">target</p><p><bdi data-is="target"></bdi></p>'
        '<p class="label">answer</p><p><bdi data-is="predicted"></bdi></p>'
        '<p class="label">samples</p><p data-is="count"></p></div>'
        '<canvas class="lens" width="420" height="420" aria-hidden="true"></canvas>'
        f'{_pairs(head)}</div><script type="application/json">{_matrix_data(head)}</script></div>'
    )


def _labeled_matrix(head: HeadResult) -> str:
    columns = "".join(
        f'<th scope="col" title="{escape(name)}"><span>{_name(name)}</span></th>'
        for name in head.classes
    )
    rows = "\n".join(
        f'<tr><th scope="row" title="{escape(row.name)}">{_name(row.name)}</th>'
        + "".join(_cell(row, column, int(n)) for column, n in enumerate(head.confusion[row.index]))
        + "</tr>"
        for row in head.per_class
    )
    return (
        '<table class="grid"><caption>Rows: the target. Columns: the answer. Color: share of the '
        "row; right answers in blue, wrong ones in orange.</caption>"
        f"<thead><tr><td></td>{columns}</tr></thead><tbody>\n{rows}\n</tbody></table>"
    )


def _cell(row: PerClassResult, column: int, count: int) -> str:
    if not count:
        return '<td class="none">·</td>'
    same = ' class="same"' if row.index == column else ""
    return f'<td{same} style="--share:{0.7 * math.sqrt(count / row.n):.2f}">{count}</td>'


def _worst_pairs(head: HeadResult) -> list[tuple[int, int, int]]:
    """(target, answer, count) of the most frequent wrong answers."""
    wrong = head.confusion.copy()
    wrong[range(len(wrong)), range(len(wrong))] = 0
    order = (-wrong).ravel().argsort(kind="stable")[:PAIRS_SHOWN]
    pairs = [(*divmod(int(cell), len(wrong)), int(wrong.flat[cell])) for cell in order]
    return [pair for pair in pairs if pair[2]]


def _pairs(head: HeadResult) -> str:
    pairs = _worst_pairs(head)
    if not pairs:
        return ""
    items = "".join(
        f"<li><span>{_name(head.classes[target])} → {_name(head.classes[answer])}</span>"
        f'<span class="soft">{count} of {head.per_class[target].n}</span></li>'
        for target, answer, count in pairs
    )
    return f'<h3>Most often confused</h3><ol class="pairs">{items}</ol>'


def _matrix_data(head: HeadResult) -> str:
    """JSON for the script; `<` is written so that no name can end the element it stands in."""
    rows, columns = head.confusion.nonzero()
    counts = head.confusion[rows, columns]
    pairs = _worst_pairs(head)
    data = {
        "classes": head.classes,
        "n": [row.n for row in head.per_class],
        "cells": [[int(v) for v in cell] for cell in zip(rows, columns, counts, strict=True)],
        "start": pairs[0][:2] if pairs else (0, 0),
    }
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


# --- classes ------------------------------------------------------------------------------------


def _classes(head: HeadResult, number: int) -> str:
    shown = worst_first(head.per_class)
    rows = "\n".join(
        _class_row(row, head) for row in [*shown, *(r for r in head.per_class if not r.n)]
    )
    columns = (("name", "class", ""), ("accuracy", "accuracy", ""), ("n", "samples", "number"))
    heads = "".join(
        f'<th scope="col" data-sort="{key}" class="{kind}"><button type="button">{words}</button>'
        "</th>"
        for key, words, kind in columns
    )
    tools = (
        f'<div class="tools"><label for="filter-{number}">Filter</label>'
        f'<input type="search" id="filter-{number}" placeholder="part of a name">'
        f'<output class="soft small">{plural(len(head.classes), "class", "classes")}</output></div>'
    )
    return (
        f'{_histogram(shown)}<div class="class-part">{tools}<div class="classes" tabindex="0" '
        f'role="region" aria-label="Table of classes"><table><thead><tr>{heads}'
        f'<th scope="col">most often taken for</th></tr></thead><tbody>\n{rows}\n</tbody></table>'
        "</div></div>"
    )


def _class_row(row: PerClassResult, head: HeadResult) -> str:
    if row.accuracy is None:
        bar, accuracy = '<span class="soft">no samples</span>', ""
    else:
        bar, accuracy = _bar(row.accuracy, f"{percent(row.accuracy)} %"), f"{row.accuracy:.6f}"
    other = ""
    if row.confused_with is not None:
        other = f"{_name(head.classes[row.confused_with])} "
        other += f'<span class="soft">{row.confused}</span>'
    counts = f"{row.right} of {row.n}" if row.n else "0"
    return (
        f'<tr data-accuracy="{accuracy}" data-n="{row.n}"><th scope="row">{_name(row.name)}</th>'
        f'<td class="bars">{bar}</td><td class="number">{counts}</td><td>{other}</td></tr>'
    )


def _histogram(rows: Sequence[PerClassResult]) -> str:
    """How many classes have which accuracy, in tens of per cent; the last ten hold 100 too."""
    counts = [0] * BINS
    for row in rows:
        counts[min(BINS - 1, BINS * row.right // row.n)] += 1
    tallest, width = max(counts, default=0) or 1, 46
    columns = []
    for index, count in enumerate(counts):
        height = 56 * count / tallest
        x, middle = index * width, index * width + width / 2 - 2
        columns.append(
            f'<rect x="{x}" y="{70 - height:.1f}" width="{width - 4}" height="{height:.1f}"/>'
            f'<text x="{middle}" y="{65 - height:.1f}" text-anchor="middle">{count or ""}</text>'
            f'<text x="{middle}" y="84" text-anchor="middle">{index * 10}–{index * 10 + 10}</text>'
        )
    words = f"Classes by accuracy in tens of per cent, from lowest: {', '.join(map(str, counts))}"
    return (
        '<figure class="histogram"><figcaption class="small soft">classes by accuracy, per cent'
        f'</figcaption><svg viewBox="0 0 {BINS * width} 90" role="img" aria-label="{words}">'
        f"{''.join(columns)}</svg></figure>"
    )


# --- mistakes and settings ----------------------------------------------------------------------


def _mistakes(mistakes: Sequence[Misclassification]) -> str:
    items = "\n".join(f"<li>{_mistake(mistake)}</li>" for mistake in mistakes)
    return (
        '<p class="soft">Wrong answers with the highest score, and the frames the model saw.</p>'
        f'<ol class="mistakes">\n{items}\n</ol>'
    )


def _mistake(mistake: Misclassification) -> str:
    answer = _bar(mistake.score, f"{percent(mistake.score)} %", "wrong")
    target = _bar(mistake.target_score, f"{percent(mistake.target_score)} %")
    return (
        '<dl class="answers">'
        f"<dt>answer</dt><dd><strong>{_name(mistake.predicted)}</strong>{answer}</dd>"
        f"<dt>target</dt><dd><span>{_name(mistake.target)}</span>{target}</dd></dl>"
        f'<p class="path soft">{_name(mistake.path)}</p>{_strip(mistake)}'
    )


def _strip(mistake: Misclassification) -> str:
    if not mistake.frames:
        return ""
    times = mistake.times or ("",) * len(mistake.frames)
    items = "".join(
        f'<li><img src="{_data_uri(frame)}" alt="frame {number} of {len(mistake.frames)}" '
        f'loading="lazy" decoding="async"><span>{escape(time)}</span></li>'
        for number, (frame, time) in enumerate(zip(mistake.frames, times, strict=True), 1)
    )
    return f'<ol class="strip">{items}</ol>'


def _data_uri(picture: bytes) -> str:
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"


def _settings(report: EvaluationReport) -> str:
    named = {"model": report.model, "dataset": report.dataset, "split": report.split}
    rows = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{_name(value)}</td></tr>'
        for name, value in {**named, **report.settings}.items()
        if value
    )
    return f'<table class="settings"><tbody>\n{rows}\n</tbody></table>'
