"""Exports for annotation tools, as their own importers define them.

Label Studio: JSON with `timelinelabels` and `choices`, frames counted from 1. FiftyOne:
FiftyOneVideoClassificationDataset and FiftyOneTemporalDetectionDataset, frames counted from 1.
CVAT for video 1.1: tracks and tags, frames counted from 0. VIA: a project of version 3, in seconds.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vtcli.data.export.clips import Clip, by_video, class_names, listed_path, require_file
from vtcli.data.samples import Dataset
from vtcli.runtime.files import atomic_write


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path, len(text)) as part:
        part.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")


def _write_json(path: Path, content: Any) -> None:
    _write_text(path, json.dumps(content, indent=1) + "\n")


def labels_value(clip: Clip, several: bool) -> str | list[str]:
    """The labels as a list if any clip of the dataset has several, else as one name."""
    return list(clip.labels) if several else clip.labels[0]


def plain_record(clip: Clip, several: bool, **fields: Any) -> dict[str, Any]:
    """`fields`, the label and, for a segment, its start and end in seconds."""
    record = fields | {"label": labels_value(clip, several)}
    start, end = clip.seconds
    times = {"start": start, "end": end}
    return record | {name: value for name, value in times.items() if value is not None}


def have_several(clips: Sequence[Clip]) -> bool:
    """Whether any clip has several labels."""
    return any(len(clip.labels) > 1 for clip in clips)


def write_manifest_lines(clips: list[Clip], dataset: Dataset, path: Path) -> None:
    """vt's manifest as JSON lines."""
    several = have_several(clips)
    lines = []
    for clip in clips:
        fields = {"path": listed_path(clip.sample.path, path.parent), "id": clip.sample.id}
        fields |= {"split": clip.sample.split} if clip.sample.split else {}
        lines.append(json.dumps(plain_record(clip, several, **fields)) + "\n")
    _write_text(path, "".join(lines))


def write_createml(clips: list[Clip], dataset: Dataset, path: Path) -> None:
    """Create ML's annotations of an action classifier: a JSON list."""
    records = [
        plain_record(clip, False, video=listed_path(clip.sample.path, path.parent))
        for clip in clips
    ]
    _write_json(path, records)


def _segments_only(clips: Sequence[Clip]) -> bool:
    """Whether whole videos are written as segments of all frames, next to other segments."""
    return not all(clip.is_whole for clip in clips)


def write_label_studio(clips: list[Clip], dataset: Dataset, path: Path) -> None:
    """One task per video; its path is relative to LOCAL_FILES_DOCUMENT_ROOT."""
    timeline = _segments_only(clips)
    tasks = []
    for number, (video, of_video) in enumerate(by_video(clips).items(), 1):
        results = []
        for place, clip in enumerate(of_video):
            if timeline:
                first, last = clip.frames
                value: dict[str, Any] = {"ranges": [{"start": first + 1, "end": last + 1}]}
                kind, name = "timelinelabels", "videoLabels"
            else:
                value, kind, name = {}, "choices", "action"
            value[kind] = list(clip.labels)
            head = {"id": f"{number}-{place}", "from_name": name, "to_name": "video"}
            results.append(head | {"type": kind, "origin": "manual", "value": value})
        listed = quote(listed_path(video, path.parent).lstrip("/"))
        annotation = {"id": number, "was_cancelled": False, "result": results}
        data = {"video": f"/data/local-files/?d={listed}"}
        tasks.append({"id": number, "data": data, "annotations": [annotation]})
    _write_json(path, tasks)


def write_fiftyone(clips: list[Clip], dataset: Dataset, path: Path) -> None:
    """A folder with labels.json and the videos in data/."""
    names = class_names(clips, dataset)
    place = {name: index for index, name in enumerate(names)}
    videos = by_video(clips)
    for video in videos:
        require_file(video, "fiftyone")
    keys = file_keys(list(videos), dataset.root)
    temporal = _segments_only(clips)
    labels: dict[str, Any] = {}
    for video, of_video in videos.items():
        found: list[Any] = []
        for clip in of_video:
            support = [frame + 1 for frame in clip.frames] if temporal else []
            for label in clip.labels:
                found.append(
                    {"label": place[label], "support": support} if temporal else place[label]
                )
        labels[keys[video]] = found if temporal or len(found) > 1 else found[0]
    copy_videos({video: path / "data" / f"{keys[video]}{video.suffix}" for video in videos})
    _write_json(path / "labels.json", {"classes": names, "labels": labels})


def file_keys(videos: Sequence[Path], root: Path) -> dict[Path, str]:
    """A name without extension for each video: its own, or its whole path if that is not unique."""
    counts = Counter(video.stem.casefold() for video in videos)
    keys: dict[Path, str] = {}
    taken: set[str] = set()
    for video in videos:
        key = video.stem
        if counts[key.casefold()] > 1:
            listed = os.path.splitext(os.path.relpath(video.absolute(), root.absolute()))[0]
            key = "__".join(part for part in Path(listed).parts if part != "..")
        number, base = 1, key
        while key in taken:
            number += 1
            key = f"{base}__{number}"
        keys[video] = key
        taken.add(key)
    return keys


def copy_videos(targets: dict[Path, Path]) -> None:
    """Copy each video to its new place."""
    for video, target in targets.items():
        with atomic_write(target, video.stat().st_size) as part:
            shutil.copyfile(video, part)


def write_cvat(clips: list[Clip], dataset: Dataset, path: Path) -> None:
    """A project with one task per video: a segment is a track of the whole image, the label of a
    whole video is a tag of every frame.
    """
    from xml.etree.ElementTree import Element, SubElement, indent, tostring

    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    project = SubElement(SubElement(root, "meta"), "project")
    SubElement(project, "name").text = dataset.name
    tasks = SubElement(project, "tasks")
    labels = SubElement(project, "labels")
    for name in class_names(clips, dataset):
        SubElement(SubElement(labels, "label"), "name").text = name
    track_id = 0
    for number, (video, of_video) in enumerate(by_video(clips).items(), 1):
        source = of_video[0].video.source
        height, width = source.read([0]).shape[1:3]
        task = SubElement(tasks, "task")
        values = {
            "id": number,
            "name": video.stem,
            "size": source.frames,
            "mode": "interpolation",
            "start_frame": 0,
            "stop_frame": source.frames - 1,
            "source": listed_path(video, path.parent),
        }
        for name, value in values.items():
            SubElement(task, name).text = str(value)
        size = SubElement(task, "original_size")
        SubElement(size, "width").text, SubElement(size, "height").text = str(width), str(height)
        box = {"occluded": "0", "keyframe": "1", "xtl": "0", "ytl": "0", "z_order": "0"}
        box |= {"xbr": str(width), "ybr": str(height)}
        for clip, label in ((c, label) for c in of_video for label in c.labels):
            first, last = clip.frames
            if clip.is_whole:
                for frame in range(source.frames):
                    tag = {"label": label, "frame": str(frame), "task_id": str(number)}
                    SubElement(root, "tag", tag | {"source": "manual"})
                continue
            head = {"id": str(track_id), "label": label, "task_id": str(number)}
            track = SubElement(root, "track", head | {"source": "manual"})
            track_id += 1
            shown = [(frame, "0") for frame in dict.fromkeys((first, last))]
            shown += [(last + 1, "1")] if last + 1 < source.frames else []
            for frame, outside in shown:
                SubElement(track, "box", {"frame": str(frame), "outside": outside} | box)
    indent(root)
    _write_text(path, '<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root, "unicode") + "\n")


def write_via(clips: list[Clip], dataset: Dataset, path: Path) -> None:
    """A project of VGG's video annotator, version 3; several labels are several entries."""
    names = class_names(clips, dataset)
    options = {str(index): name for index, name in enumerate(names)}
    place = {name: key for key, name in options.items()}
    common = {"aname": "label", "type": 4, "desc": "", "default_option_id": "", "options": options}
    attributes = {
        "1": common | {"anchor_id": "FILE1_Z2_XY0"},
        "2": common | {"anchor_id": "FILE1_Z0_XY0"},
    }
    files: dict[str, Any] = {}
    views: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    for number, (video, of_video) in enumerate(by_video(clips).items(), 1):
        key, listed = str(number), listed_path(video, path.parent)
        files[key] = {"fid": key, "fname": listed, "type": 4, "loc": 3, "src": listed}
        views[key] = {"fid_list": [key]}
        for clip in of_video:
            times = [] if clip.is_whole else list(clip.bounds)
            for label in clip.labels:
                entry = {"vid": key, "flg": 0, "z": times, "xy": []}
                used = "2" if clip.is_whole else "1"
                metadata[f"{key}_{len(metadata)}"] = entry | {"av": {used: place[label]}}
    project = {"pid": "__VIA_PROJECT_ID__", "rev": "__VIA_PROJECT_REV_ID__"}
    project |= {"rev_timestamp": "__VIA_PROJECT_REV_TIMESTAMP__", "pname": dataset.name}
    project |= {"creator": "VGG Image Annotator (http://www.robots.ox.ac.uk/~vgg/software/via)"}
    content = {
        "project": project | {"created": 0, "vid_list": list(views)},
        "config": {"file": {"loc_prefix": {"1": "", "2": "", "3": "", "4": ""}}, "ui": {}},
        "attribute": attributes,
        "file": files,
        "metadata": metadata,
        "view": views,
    }
    _write_json(path, content)
