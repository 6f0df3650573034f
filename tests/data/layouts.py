"""Small datasets with the layout of their official downloads: real annotation files, real videos.

Each function writes below a folder and returns it. Videos are copies of one encoded clip.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from pathlib import Path

import av
import numpy as np

SSV2 = (
    ("78687", "Holding [something] next to [something]"),
    ("42326", "Spreading [something] onto [something]"),
    ("145274", "Moving [something] away from [something]"),
)
KINETICS = (
    ("abseiling", "---QUuC4vJs", 84, 94),
    ("massaging person's head", "-0IErS_cisg", 17, 27),
    ("testifying", "0wR5jVB-WPk", 417, 427),
)
UCF101 = ("ApplyEyeMakeup", "ApplyLipstick", "Archery", "HandstandPushups")
HMDB51 = ("brush_hair", "cartwheel", "catch")
JESTER = ("Swiping Left", "Swiping Right", "Swiping Down")
DIVING48 = (["Back", "15som", "05Twis", "FREE"], ["Back", "15som", "15Twis", "FREE"])
MOMENTS = ("clapping", "praying", "dropping")
EPIC_HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,"
    "start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
)


@cache
def _encoded(suffix: str) -> bytes:
    """A clip of 8 frames, 32x32 pixels, in the usual codec of its file extension."""
    codec = {".webm": "libvpx-vp9", ".avi": "mpeg4"}.get(suffix, "libx264")
    noise = np.random.RandomState(0).randint(0, 255, (8, 32, 32, 3), np.uint8)
    buffer = BytesIO()
    formats = {".webm": "webm", ".avi": "avi"}
    with av.open(buffer, "w", format=formats.get(suffix, "mp4")) as container:
        stream = container.add_stream(codec, rate=12)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for frame in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def video(path: Path) -> Path:
    """A real video file; its parent folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_encoded(path.suffix.lower()))
    return path


def frames(folder: Path, count: int = 3) -> Path:
    """A folder of real images 00001.jpg, 00002.jpg, ..."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / f"{number:05d}.jpg")
    return folder


def text(path: Path, *lines: str) -> Path:
    """A text file with these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def table(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    """A csv file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def ssv2(root: Path) -> Path:
    """The 2018 download: labels/*.json and 20bn-something-something-v2/ID.webm."""
    from vtcli.labels import load_labels

    labels = root / "labels"
    labels.mkdir(parents=True)
    numbered = {name: str(index) for index, name in enumerate(load_labels("ssv2"))}
    (labels / "labels.json").write_text(json.dumps(numbered))
    records = [
        {"id": id_, "label": "placeholders filled in", "template": t, "placeholders": ["cube"]}
        for id_, t in SSV2
    ]
    (labels / "validation.json").write_text(json.dumps(records))
    (labels / "train.json").write_text(json.dumps([{**records[0], "id": "1"}]))
    (labels / "test.json").write_text('[{"id":"3"}]')
    text(labels / "test-answers.csv", "3;Throwing something")
    for id_ in ("1", "3", *(id_ for id_, _ in SSV2)):
        video(root / "20bn-something-something-v2" / f"{id_}.webm")
    return root


def kinetics(root: Path, folders: str = "flat") -> Path:
    """annotations/val.csv and val/; `folders` is flat, spaces or underscores."""
    rows: list[Sequence[object]] = [("label", "youtube_id", "time_start", "time_end", "split")]
    for label, id_, start, end in KINETICS:
        rows.append((label, id_, start, end, "validate"))
        below = {"flat": "", "spaces": label, "underscores": label.replace(" ", "_")}[folders]
        video(root / "val" / below / f"{id_}_{start:06d}_{end:06d}.mp4")
    table(root / "annotations" / "val.csv", rows)
    return root


def ucf101(root: Path) -> Path:
    """ucfTrainTestlist/ and UCF-101/; the folder HandstandPushups contains v_HandStandPushups_*."""
    from vtcli.labels import load_labels

    lists = root / "ucfTrainTestlist"
    names = load_labels("ucf101")
    text(lists / "classInd.txt", *(f"{n} {name}" for n, name in enumerate(names, 1)))
    for split in (1, 2, 3):
        train, test = [], []
        for name in UCF101:
            stem = name.replace("Handstand", "HandStand")
            train.append(f"{name}/v_{stem}_g08_c0{split}.avi {names.index(name) + 1}")
            test.append(f"{name}/v_{stem}_g01_c0{split}.avi")
        text(lists / f"trainlist0{split}.txt", *train)
        text(lists / f"testlist0{split}.txt", *test)
        for line in (*train, *test):
            video(root / "UCF-101" / line.split(" ")[0])
    return root


def hmdb51(root: Path) -> Path:
    """testTrainMulti_7030_splits/ and hmdb51_org/, with names that break shells."""
    for name in HMDB51:
        files = [f"{name}_#{n}&(a)!_{name}_u_nm_np1_ba_goo_0.avi" for n in range(3)]
        for file in files:
            video(root / "hmdb51_org" / name / file)
        for split in (1, 2, 3):
            uses = [(n + split) % 3 for n in range(3)]
            lines = [f"{file} {use} " for file, use in zip(files, uses, strict=True)]
            text(root / f"testTrainMulti_7030_splits/{name}_test_split{split}.txt", *lines)
    return root


def epic100(root: Path, flat: bool = False) -> Path:
    """epic-kitchens-100-annotations/ and EPIC-KITCHENS/PXX/videos/, or all videos in one folder."""
    rows = (
        "P01_11_0,P01,P01_11,00:00:00.560,00:00:00.00,00:00:01.89,1,113,take plate,take,0,plate,2,"
        "['plate'],[2]",
        'P01_11_1,P01,P01_11,00:00:03.10,00:01:02.50,01:00:04.25,9,99,"cut, then wash",cut,7,'
        "knife,4,\"['knife', 'tap']\",\"[4, 0]\"",
    )
    annotations = root / "epic-kitchens-100-annotations"
    text(annotations / "EPIC_100_validation.csv", EPIC_HEADER, *rows)
    for head in ("verb", "noun"):
        from vtcli.labels import load_labels

        names = load_labels(f"epic100_{head}")
        lines = (f"{n},{name},\"['{name}']\",other" for n, name in enumerate(names))
        text(annotations / f"EPIC_100_{head}_classes.csv", "id,key,instances,category", *lines)
    video(root / ("P01_11.MP4" if flat else "EPIC-KITCHENS/P01/videos/P01_11.MP4"))
    return root


def activitynet(root: Path) -> Path:
    """activity_net.v1-3.min.json and videos/v_ID.mp4."""
    entry = {"duration": 82.73, "url": "https://www.youtube.com/watch?v=x", "resolution": "320x240"}
    drinking = {"label": "Drinking coffee", "segment": [6.195, 77.16]}
    applying = {"label": "Applying sunscreen", "segment": [0.5, 3.0]}
    database = {
        "--0edUL8zmA": {**entry, "subset": "training", "annotations": [drinking]},
        "sJFgo9H6zNo": {**entry, "subset": "validation", "annotations": [drinking, drinking]},
        "V1zhqaGFY2A": {**entry, "subset": "validation", "annotations": [applying, drinking]},
        "2YhzK_6WbJs": {**entry, "subset": "testing", "annotations": []},
    }
    root.mkdir(parents=True, exist_ok=True)
    content = {"database": database, "taxonomy": [], "version": "VERSION 1.3"}
    (root / "activity_net.v1-3.min.json").write_text(json.dumps(content))
    for id_ in database:
        video(root / "videos" / f"v_{id_}.mp4")
    return root


def hacs(root: Path) -> Path:
    """HACS_segments_v1.1.1.json and CLASS/v_ID.mp4; a video of two classes is in both folders."""
    one = {"label": "Cheese rolling", "segment": [1.0, 2.0]}
    two = {"label": "Zumba of another kind", "segment": [3.0, 4.0]}
    database = {
        "-aa": {"subset": "validation", "duration": 9.0, "annotations": [one, two]},
        "bb": {"subset": "training", "duration": 9.0, "annotations": [two]},
    }
    root.mkdir(parents=True, exist_ok=True)
    (root / "HACS_segments_v1.1.1.json").write_text(json.dumps({"database": database}))
    for place in ("Cheese_rolling/v_-aa", "Zumba_of_another_kind/v_-aa", "Cheese_rolling/v_bb"):
        video(root / f"{place}.mp4")
    return root


def moments(root: Path) -> Path:
    """moments_categories.txt, validationSet.csv and validation/CLASS/VIDEO.mp4."""
    from vtcli.labels import load_labels

    names = load_labels("mit")
    text(root / "moments_categories.txt", *(f"{name},{n}" for n, name in enumerate(names)))
    rows = [(f"{name}/yt-{n}.mp4", name, "4", "1") for n, name in enumerate(MOMENTS)]
    table(root / "validationSet.csv", rows)
    for row in rows:
        video(root / "validation" / row[0])
    return root


def diving48(root: Path) -> Path:
    """Diving48_V2_test.json, Diving48_vocab.json and rgb/NAME.mp4."""
    records = [
        {"vid_name": f"-mmq0PT-u8k_0015{n}", "label": n, "start_frame": 0, "end_frame": 48}
        for n in range(2)
    ]
    root.mkdir(parents=True, exist_ok=True)
    (root / "Diving48_V2_test.json").write_text(json.dumps(records))
    (root / "Diving48_vocab.json").write_text(json.dumps(DIVING48))
    for record in records:
        video(root / "rgb" / f"{record['vid_name']}.mp4")
    return root


def jester(root: Path) -> Path:
    """jester-v1-*.csv and 20bn-jester-v1/ID/00001.jpg."""
    from vtcli.labels import load_labels

    text(root / "jester-v1-labels.csv", *load_labels("jester"))
    text(root / "jester-v1-validation.csv", *(f"{n};{name}" for n, name in enumerate(JESTER, 34)))
    text(root / "jester-v1-test.csv", "90")
    for id_ in (34, 35, 36, 90):
        frames(root / "20bn-jester-v1" / str(id_))
    return root


def ssv1(root: Path) -> Path:
    """something-something-v1-*.csv and 20bn-something-something-v1/ID/00001.jpg."""
    from vtcli.labels import load_labels

    prefix = "something-something-v1"
    text(root / f"{prefix}-labels.csv", *load_labels("ssv1"))
    lines = ("100218;Something falling like a feather or paper", "7;Holding something")
    text(root / f"{prefix}-validation.csv", *lines)
    for id_ in ("100218", "7"):
        frames(root / f"20bn-{prefix}" / id_)
    return root


def videofolder(root: Path) -> Path:
    """Hugging Face's folder/train/dog/x.mp4, with `valid` for the validation split."""
    for place in ("train/dog/rex.mp4", "train/cat/tom & co #1.mp4", "valid/dog/lassie.mp4"):
        video(root / place)
    return root


def metadata_folder(root: Path) -> Path:
    """Hugging Face's folder/train/metadata.csv with file_name,label."""
    for split, names in (("train", ("a.mp4", "b.mp4")), ("test", ("c.mp4",))):
        rows = [(name, "cat" if name == "b.mp4" else "dog") for name in names]
        table(root / split / "metadata.csv", [("file_name", "label"), *rows])
        for name in names:
            video(root / split / name)
    return root


def class_folders(root: Path) -> Path:
    """One folder per class; one sample is a folder of images."""
    for place in ("dog/rex.mp4", "dog/more/fido.AVI", "cat/tom & co #1.mp4"):
        video(root / place)
    frames(root / "cat" / "felix")
    return root
