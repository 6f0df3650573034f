"""The terminal output and the JSON of an evaluation show its metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from tests.report import reports
from vtcli.evaluation.comparison import compare
from vtcli.evaluation.metrics import head_metrics, mean_over_splits
from vtcli.evaluation.results import Estimate, EvaluationReport, ReportedMetrics
from vtcli.report.evaluation import by_reason, print_comparison, print_evaluation, print_splits
from vtcli.report.tables import points, with_interval


def printed(write: Callable[[Console], None], width: int = 80, **settings: object) -> str:
    stream = StringIO()
    write(Console(file=stream, width=width, **settings))
    return stream.getvalue()


def words(text: str) -> str:
    """All words and numbers of a table or a paragraph, without its rules and line breaks."""
    return " ".join(text.replace("─", " ").split())


# --- the end of a run ---------------------------------------------------------------------------


def test_metrics_are_shown_next_to_the_published_ones() -> None:
    head = replace(
        reports.head(reports.MOTIONS, failed=20),
        top1_read=Estimate(0.8137, 0.7981, 0.8289),
        top1_all=Estimate(0.651, 0.6, 0.7),
    )
    report = reports.report(
        head, reported=ReportedMetrics(84.4, None, "Table 3"), differs="1 x 1 views"
    )
    text = words(printed(lambda console: print_evaluation(report, console)))
    assert "top-1 81.4 (79.8–82.9) 65.1 (60.0–70.0) 84.4 -3.0" in text
    assert "published: Table 3; diff: in points, over the videos read" in text
    assert "1 x 1 views" in text
    assert "100 expected, 80 read, 20 failed; 1 min 23 s, 0.96 videos/s" in text


def test_a_run_without_failures_shows_one_column() -> None:
    text = words(printed(lambda console: print_evaluation(reports.report(), console)))
    assert "percent this run" in text
    assert "counts as wrong" not in text
    assert "published" not in text


NAMES = tuple(f"Pretending to put something {i} onto something slanted" for i in range(60))


@pytest.mark.parametrize(
    "report",
    [
        reports.report(),
        reports.kinetics(40),
        reports.epic(),
        reports.report(reports.head(NAMES, accuracy=0.3), differs="word " * 40),
    ],
    ids=["motion", "kinetics", "epic", "long names"],
)
def test_a_run_fits_eighty_columns_and_respects_no_color(
    report: EvaluationReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = printed(lambda console: print_evaluation(report, console))
    assert "\x1b" not in plain
    assert max(cell_len(line) for line in plain.splitlines()) <= 80
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = printed(lambda console: print_evaluation(report, console), force_terminal=True)
    assert not re.search(r"\x1b\[[\d;]*\b(3|4|9)\d", terminal)
    assert re.sub(r"\x1b\[[\d;]*m", "", terminal) == plain


def test_names_of_any_script_and_brackets_are_printed_as_they_are() -> None:
    names = ("拍手する", "[red]左[/red]", ":smile:", "ёлка")
    report = reports.report(
        head_metrics("action", names, np.eye(4)[[1, 2, 3, 0]], [0, 1, 2, 3], 4),
        warnings=("look at [bold]this[/bold]",),
    )
    text = printed(lambda console: print_evaluation(report, console), no_color=True)
    for name in (*names, "[bold]this[/bold]"):
        assert name in text


def test_failures_are_counted_by_reason_with_the_first_named() -> None:
    failures = [*reports.failures(1, "timeout"), *reports.failures(5)]
    report = reports.report(reports.head(reports.MOTIONS, failed=6), failures=tuple(failures))
    text = printed(lambda console: print_evaluation(report, console))
    assert text.index("failed, corrupt: 5") < text.index("failed, timeout: 1")
    assert "/data/val/corrupt/2.mp4: breaks off" in text
    assert "/data/val/corrupt/3.mp4" not in text
    assert "and 2 more" in text
    assert [(reason, len(group)) for reason, group in by_reason(failures).items()] == [
        ("corrupt", 5),
        ("timeout", 1),
    ]


def test_the_worst_classes_are_named_with_their_most_frequent_wrong_prediction() -> None:
    target = np.repeat(np.arange(4), 10)
    predicted = np.where(np.arange(40) % 10 < np.repeat([9, 2, 10, 5], 10), target, 0)
    predicted[9] = 1
    head = head_metrics("action", "abcd", np.eye(4)[predicted], target.tolist(), 40)
    report = reports.report(head)
    text = words(printed(lambda console: print_evaluation(report, console)))
    assert "b 2/10 20.0 a (8) d 5/10 50.0 a (5) a 9/10 90.0 b (1)" in text
    assert "10/10" not in text


def test_top_5_is_omitted_where_it_is_always_correct() -> None:
    report = reports.report(head_metrics("action", "abc", np.eye(3), [0, 1, 2], 3))
    assert "top-5" not in printed(lambda console: print_evaluation(report, console))


def test_a_run_without_any_video_read_has_dashes_for_metrics() -> None:
    report = reports.report(
        reports.nothing(reports.MOTIONS, 12), failures=tuple(reports.failures(12))
    )
    text = words(printed(lambda console: print_evaluation(report, console)))
    assert "top-1 – 0.0 (0.0–" in text
    assert "12 expected, 0 read, 12 failed" in text


def test_an_interrupted_run_shows_how_many_videos_are_not_done() -> None:
    report = replace(reports.report(), expected=100, failed=5)
    text = printed(lambda console: print_evaluation(report, console))
    assert "100 expected, 80 read, 5 failed, 15 not done" in text


def test_metrics_are_in_percent_and_differences_in_points() -> None:
    assert with_interval(Estimate(0.12345, 0.1, 1.0)) == "12.3 (10.0–100.0)"
    assert with_interval(None) == "–"
    assert [points(d) for d in (-0.26, 1.0, None)] == ["-0.3", "+1.0", ""]


# --- for programs -------------------------------------------------------------------------------


def test_json_has_every_metric_and_no_frames() -> None:
    report = replace(reports.kinetics(30), warnings=("careful",))
    table = json.loads(json.dumps(report.to_dict()))
    assert table["format"] == 2
    assert table["reported"] == {
        "top1": 84.4,
        "top5": 96.3,
        "source": "UniFormerV2 MODEL_ZOO@722a434",
    }
    head, result = table["heads"][0], report.heads[0]
    assert result.top1_all is not None
    assert head["top1_all"] == {
        "value": result.top1_all.value,
        "low": result.top1_all.low,
        "high": result.top1_all.high,
    }
    matrix = np.zeros((30, 30), int)
    for target, predicted, count in head["confusion"]:
        matrix[target, predicted] = count
    assert (matrix == result.confusion).all()
    assert head["per_class"][3]["accuracy"] == result.per_class[3].correct / result.per_class[3].n
    assert len(table["failures"]) == 27
    assert "frames" not in table["misclassifications"][0]
    assert table["warnings"] == ["careful"]


def test_json_of_actions_and_of_a_run_without_any_video_read() -> None:
    action = json.loads(json.dumps(reports.epic().to_dict()))["action"]
    assert action["name"] == "action"
    assert action["n_read"] == 600
    empty = reports.report(reports.nothing(reports.MOTIONS, 2))
    head = json.loads(json.dumps(empty.to_dict()))["heads"][0]
    assert head["top1_read"] is None
    assert head["mean_class"] is None


# --- several runs -------------------------------------------------------------------------------


def test_splits_are_listed_with_their_mean() -> None:
    def split(correct: int) -> object:
        predicted = np.eye(2)[[0] * correct + [1] * (10 - correct)]
        return head_metrics("action", "ab", predicted, [0] * 10, 20)

    splits = mean_over_splits([(str(i), split(r)) for i, r in enumerate((7, 8, 9), 1)])
    text = words(printed(lambda c: print_splits(splits, ReportedMetrics(78.0, None, "paper"), c)))
    assert "split 1 70.0 35.0 split 2 80.0 40.0 split 3 90.0 45.0" in text
    assert "mean 80.0 ± 10.0 40.0 ± 5.0" in text
    assert "published: 78.0 (paper), difference +2.0" in text
    assert json.loads(json.dumps(splits.to_dict()))["read"]["values"] == [0.7, 0.8, 0.9]


def test_two_runs_are_shown_side_by_side() -> None:
    a = {str(i): i < 60 for i in range(110)}
    b = {str(i): 10 <= i < 90 for i in range(100)}
    found = compare(a, b, {str(i): f"[b]class {i // 10}" for i in range(110)})
    text = words(printed(lambda c: print_comparison(found, "runs/a", "runs/b", c)))
    assert "A 60.0 % runs/a B 80.0 % runs/b" in text
    assert "A correct 50 10 A wrong 30 10" in text
    # 2 * P(X <= 10) for 40 tosses of a fair coin.
    assert "B - A: +20.0 points" in text
    assert "p = 0.0022: significant" in text
    assert "10 samples of A skipped: not in B" in text
    assert "3 classes improved in B" in text
    assert "1 class regressed in B n A B [b]class 0 10 10 0" in text
    table = json.loads(json.dumps(found.to_dict()))
    assert (table["format"], table["n"], table["correct_only_b"]) == (2, 100, 30)
    assert table["improved"][0]["correct_b"] == 10
