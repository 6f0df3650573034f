"""Exports that contain the videos: Hugging Face's videofolder and Parquet, and WebDataset tars."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from vtcli.data.export.clips import Clip, by_video, class_names, require_file
from vtcli.data.export.tools import copy_videos, file_keys, have_several, plain_record
from vtcli.data.samples import Dataset
from vtcli.errors import DataError
from vtcli.runtime.extras import missing_package
from vtcli.runtime.files import atomic_write
from vtcli.runtime.words import valid_text

_BATCH_ROWS = 16


def write_videofolder(clips: list[Clip], dataset: Dataset, path: Path) -> None:
    """A folder for the split, with metadata.jsonl and the videos."""
    videos = list(by_video(clips))
    for video in videos:
        require_file(video, "videofolder")
    folder = path / (dataset.split if dataset.split in ("validation", "test") else "train")
    keys = file_keys(videos, dataset.root)
    names = {video: f"{keys[video]}{video.suffix}" for video in videos}
    copy_videos({video: folder / name for video, name in names.items()})
    several = have_several(clips)
    records = [plain_record(clip, several, file_name=names[clip.sample.path]) for clip in clips]
    with atomic_write(folder / "metadata.jsonl") as part, part.open("w", encoding="ascii") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def write_parquet(clips: list[Clip], dataset: Dataset, path: Path) -> None:
    """One row per sample: `video {bytes, path}`, `label` (a ClassLabel), `start` and `end`."""
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter
    except ImportError as error:
        raise DataError(missing_package("Parquet files", "pyarrow", "parquet")) from error
    for video in by_video(clips):
        require_file(video, "parquet")
    names = class_names(clips, dataset)
    place = {name: index for index, name in enumerate(names)}
    several = have_several(clips)
    label = {"names": names, "_type": "ClassLabel"}
    time = {"dtype": "float64", "_type": "Value"}
    features = {
        "video": {"_type": "Video"},
        "label": {"feature": label, "_type": "Sequence"} if several else label,
        "start": time,
        "end": time,
    }
    schema = pa.schema(
        [
            ("video", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("label", pa.list_(pa.int64()) if several else pa.int64()),
            ("start", pa.float64()),
            ("end", pa.float64()),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    with atomic_write(path) as part, ParquetWriter(part, schema) as writer:
        for begin in range(0, len(clips), _BATCH_ROWS):
            rows = []
            for clip in clips[begin : begin + _BATCH_ROWS]:
                video = clip.sample.path
                indices = [place[name] for name in clip.labels]
                start, end = clip.seconds
                held = {"bytes": video.read_bytes(), "path": valid_text(video.name)}
                value = indices if several else indices[0]
                rows.append({"video": held, "label": value, "start": start, "end": end})
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def write_webdataset(clips: list[Clip], dataset: Dataset, path: Path) -> None:
    """A tar file with KEY.mp4 and KEY.json for each sample."""
    for video in by_video(clips):
        require_file(video, "webdataset")
    several = have_several(clips)
    with atomic_write(path) as part, tarfile.open(part, "w") as archive:
        for number, clip in enumerate(clips):
            video = clip.sample.path
            key = f"{number:06d}"
            record = plain_record(clip, several, id=clip.sample.id)
            _add(archive, f"{key}{video.suffix.lower()}", video.read_bytes())
            _add(archive, f"{key}.json", json.dumps(record).encode())


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))
