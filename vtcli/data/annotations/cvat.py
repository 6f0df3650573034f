"""CVAT for video 1.1: an XML file with the tracks and tags of one video or of a project.

A track is a segment for every run of frames in which its object is visible; a tag is one for every
run of frames that have it, or for the whole video if all of its frames have it. Frames count from 0
in the video of the task.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vtcli.data.annotations.base import Annotation, AnnotationRow, candidate_paths, read_text
from vtcli.data.annotations.tools import merge_rows
from vtcli.errors import DataError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


@dataclass(frozen=True)
class _Task:
    """A task's video, and the frame of it that a frame number of the export stands for."""

    video: str
    start: int = 0
    step: int = 1
    size: int = 0

    def frame(self, number: int) -> int:
        return self.start + number * self.step


def read_cvat(path: Path) -> Annotation:
    """One row per segment with its labels.

    Raises `DataError` if the file is not such an export, or does not name its video.
    """
    from xml.etree.ElementTree import ParseError, fromstring

    text = read_text(path)
    if "<!ENTITY" in text:
        raise DataError(f"{path} defines XML entities, which are not read; export it again")
    try:
        root = fromstring(text)
    except ParseError as error:
        raise DataError(f"{path} is not valid XML ({error}); export it again") from error
    if root.tag != "annotations":
        raise DataError(
            f"{path} is not an export of CVAT (<{root.tag}>); export 'CVAT for video 1.1'"
        )
    tasks = _tasks(root)
    try:
        rows = [*_tracks(path, root, tasks), *_tags(path, root, tasks)]
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{path} lacks a label or a frame number ({error}); export it again"
        ) from error
    return merge_rows(path, "CVAT for video 1.1", rows, 0)


def _tasks(root: Element) -> dict[str, _Task]:
    """The tasks by their ids; "" is the only one."""
    found = {}
    for meta in root.findall("meta"):
        nodes = [*meta.iter("task"), *meta.iter("job")]
        for node in nodes:
            video = node.findtext("source") or meta.findtext("source") or ""
            start = int(node.findtext("start_frame") or 0)
            step = (node.findtext("frame_filter") or "").partition("step=")[2]
            size = int(node.findtext("size") or 0)
            found[node.findtext("id") or ""] = _Task(video.strip(), start, int(step or 1), size)
        if not nodes and meta.findtext("source"):
            found[""] = _Task(str(meta.findtext("source")).strip())
    return found


def _task_of(path: Path, node: Element, tasks: dict[str, _Task]) -> _Task:
    task = tasks.get(node.get("task_id", ""))
    if task is None and len(tasks) == 1:
        task = next(iter(tasks.values()))
    if task is None or not task.video:
        raise DataError(f"{path} does not name the video in <meta><source>; export it again")
    return task


def _tracks(path: Path, root: Element, tasks: dict[str, _Task]) -> Iterator[AnnotationRow]:
    for number, track in enumerate(root.iter("track"), 1):
        task = _task_of(path, track, tasks)
        shapes = sorted(
            (int(s.attrib["frame"]), s.get("outside") == "1") for s in track if s.get("frame")
        )
        first: int | None = None
        last = 0
        for frame, outside in shapes:
            if outside and first is not None:
                yield _row(task, track, number, first, max(first, frame - 1))
                first = None
            elif not outside:
                first = frame if first is None else first
                last = frame
        if first is not None:
            yield _row(task, track, number, first, last)


def _tags(path: Path, root: Element, tasks: dict[str, _Task]) -> Iterator[AnnotationRow]:
    frames: dict[tuple[str, str], list[int]] = defaultdict(list)
    nodes: dict[tuple[str, str], Element] = {}
    images = [(image.get("id"), tag) for image in root.iter("image") for tag in image.iter("tag")]
    for frame, tag in [*((t.get("frame"), t) for t in root.findall("tag")), *images]:
        key = (tag.get("task_id", ""), tag.attrib["label"])
        nodes.setdefault(key, tag)
        if frame is None:
            yield AnnotationRow(candidate_paths(_task_of(path, tag, tasks).video), (key[1],))
        else:
            frames[key].append(int(frame))
    for key, numbers in frames.items():
        task = _task_of(path, nodes[key], tasks)
        for first, last in _runs(sorted(set(numbers))):
            if (first, last, task.start) == (0, task.size - 1, 0):
                yield AnnotationRow(candidate_paths(task.video), (key[1],))
                continue
            yield _row(task, nodes[key], 0, first, last)


def _runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The first and last of every run of consecutive numbers."""
    first = last = None
    for number in numbers:
        if first is None or last is None:
            first = number
        elif number != last + 1:
            yield first, last
            first = number
        last = number
    if first is not None and last is not None:
        yield first, last


def _row(task: _Task, node: Element, number: int, first: int, last: int) -> AnnotationRow:
    first, last = task.frame(first), task.frame(last) + task.step - 1
    labels = (node.attrib["label"],)
    return AnnotationRow(
        candidate_paths(task.video), labels, number, first_frame=first, last_frame=last
    )
