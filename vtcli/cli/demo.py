"""`vt demo`: every main command once, in less than a minute and offline."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vtcli.cli.options import DeviceOption, FormatOption, SeedOption, WorkersOption
from vtcli.errors import EXIT_OK

if TYPE_CHECKING:
    from rich.console import Console

    from vtcli.synthetic.demo import Demo


def demo(
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="New folder, or that of an earlier demo."
        ),
    ] = Path("vt-demo"),
    seed: SeedOption = 1,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    format: FormatOption = "table",
) -> int:
    """Predict, profile, evaluate and annotate synthetic clips with four small models.

    Works offline: the models are part of the package. Each step prints the
    command that does it.
    """
    from rich.console import Console

    from vtcli.cli.next_step import command, print_next
    from vtcli.cli.progress import working
    from vtcli.synthetic.demo import Demo

    started = time.perf_counter()
    console = Console(highlight=False, quiet=format == "json")
    shown = Demo(output, seed, device, workers)
    table: dict[str, Any] = {}
    steps = {
        "making clips": _make,
        "predicting": _predict,
        "measuring": _profile,
        "evaluating": _evaluate,
        "annotating a film": _film,
    }
    with working("") as task:
        for name, step in steps.items():
            task.say(name)
            table |= step(shown, console)
    table["seconds"] = round(time.perf_counter() - started, 1)
    if format == "json":
        print(json.dumps(table, ensure_ascii=False, indent=2))
    words = f"\nAnnotated film: {shown.annotated}. The demo took {table['seconds']:.0f} s."
    console.print(words, soft_wrap=True)
    print_next(command("predict", "VIDEO"), command("models", "list"), format=format)
    return EXIT_OK


def _make(shown: Demo, console: Console) -> dict[str, Any]:
    from vtcli.cli.progress import file_progress
    from vtcli.report.demo import print_step

    print_step(
        console,
        f"{shown.clips} clips of eight motions that no single frame tells apart",
        f"vt datasets make motion8 {shown.dataset} --train 0 --val 0 --test {shown.clips} "
        f"--seed {shown.seed}",
    )
    console.print()
    with file_progress(shown.clips, to_file=True) as progress:
        shown.make_clips(progress)
    return {"dataset": str(shown.dataset)}


def _predict(shown: Demo, console: Console) -> dict[str, Any]:
    from vtcli.report.demo import print_seen, print_step

    path, model = shown.examples[0][1], shown.models[0]
    print_step(
        console,
        "Top-1 predictions of four models for one clip of each class",
        f"vt predict {path} -m {model}",
    )
    seen = [clip.to_dict() for clip in shown.predict()]
    print_seen(console, seen)
    return {"clips": seen}


def _profile(shown: Demo, console: Console) -> dict[str, Any]:
    from vtcli.report.demo import print_costs, print_step

    print_step(console, "Cost of each model", f"vt profile -m {' -m '.join(shown.models)}")
    costs = [profile.to_dict() for profile in shown.profile().profiles]
    print_costs(console, costs)
    return {"costs": costs}


def _evaluate(shown: Demo, console: Console) -> dict[str, Any]:
    from vtcli.report.demo import print_accuracies, print_step
    from vtcli.report.html import write_html

    print_step(
        console,
        f"Accuracy on all {shown.clips} clips",
        f"vt eval --dataset motion8 --data-root {shown.dataset} -m {shown.models[0]}",
    )
    reports = [(shown.evaluate(model), shown.run(model) / "report.html") for model in shown.models]
    for report, page in reports:
        write_html(report, page)
    pages = str(shown.run("*") / "report.html")
    print_accuracies(console, [report for report, _ in reports], pages)
    evaluations = []
    for report, page in reports:
        top1 = report.headline.top1_read
        table = {"model": report.model, "top1": top1 and top1.value, "report": str(page)}
        evaluations.append(table)
    return {"evaluations": evaluations}


def _film(shown: Demo, console: Console) -> dict[str, Any]:
    from vtcli.report.demo import print_step
    from vtcli.report.timeline import make_timeline_writer
    from vtcli.synthetic.demo import SECONDS

    model = shown.models[-1]
    print_step(
        console,
        "Timeline of a film that shows all eight motions",
        f"vt predict {shown.film} -m {model} --window {SECONDS:g}s --annotate {shown.annotated}",
    )
    shown.make_film()
    header, timeline = shown.watch_film(model)
    if not console.quiet:
        writer = make_timeline_writer("table", sys.stdout, header)
        writer.add(timeline)
        writer.close()
    return {"timeline": timeline.to_dict(), "annotated": str(shown.annotated)}
