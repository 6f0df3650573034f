"""A list's number of frames is compared with the images in the folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.data import layouts
from tests.evaluation.harness import model_file
from vtcli.cli import run
from vtcli.data.check import check_datasets, open_splits
from vtcli.data.clip_loader import open_sample
from vtcli.data.open import open_dataset
from vtcli.errors import EXIT_SOME_FAILED

PYSLOWFAST = "original_vido_id video_id frame_id path labels"
LISTS = {
    "mmaction2.txt": ["a 8 0", "b 12 1"],
    "run_videofolder.txt": ["a 8 0", "b 12 1"],  # X-ViT
    "pyslowfast.csv": ["a,8,0", "b,12,1"],
    "manifest.csv": ["path,label,num_frames", "a,run,8", "b,jump,12"],
    "float.csv": ["path,label,n_frames", "a,run,8.0", "b,jump,12.0"],
    "list.json": ['[{"video": "a", "label": "run", "frames": 8},'
                  ' {"video": "b", "label": "jump", "frames": 12}]'],
    "frames.csv": [PYSLOWFAST, *(f'{v} {v} {i} {v}/{i + 1:05d}.jpg "{n}"'
                                 for n, (v, count) in enumerate([("a", 8), ("b", 12)])
                                 for i in range(count))],
}  # fmt: skip


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Folders `a` of 8 images, `b` of 10."""
    for number, (name, count) in enumerate([("a", 8), ("b", 10)]):
        layouts.frames(tmp_path / name, count)
        Image.effect_noise((32, 32), 60 + number).convert("RGB").save(tmp_path / name / "00001.jpg")
    return tmp_path


@pytest.mark.parametrize("name", LISTS)
def test_a_folder_with_another_number_of_frames_than_listed_is_reported(
    folders: Path, name: str
) -> None:
    path = layouts.text(folders / name, *LISTS[name])
    dataset = open_dataset(path)
    assert [sample.frames for sample in dataset.samples] == [8, 12]
    warnings = [open_sample(sample, None, "auto").warnings for sample in dataset.samples]
    assert warnings == [(), ("the list states 12 frames, and the folder has 10",)]
    issues = check_datasets(open_splits(path)).issues
    assert [(i.problem, i.sample.id) for i in issues] == [("frame_count", "b")]
    assert "states 12 frames, and the folder has 10" in issues[0].detail


def test_a_video_file_is_not_held_against_the_frames_that_were_cut_from_it(tmp_path: Path) -> None:
    layouts.video(tmp_path / "a.mp4")
    path = layouts.text(tmp_path / "list.csv", "path,label,frames", "a.mp4,run,400")
    dataset = open_dataset(path)
    assert open_sample(dataset.samples[0], None, "auto").warnings == ()
    assert not check_datasets(open_splits(path)).issues


def test_the_frames_of_a_segment_are_not_held_against_the_folder(folders: Path) -> None:
    rows = ("path,label,start,end,frames", "a,run,0,0.5,6", "b,jump,,,10")
    dataset = open_dataset(layouts.text(folders / "list.csv", *rows))
    assert [sample.frames for sample in dataset.samples] == [None, 10]


def test_eval_says_so_and_strict_refuses(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_file(folders / "m.safetensors", {"action": ["jump", "run"]})
    layouts.text(folders / "list.csv", *LISTS["manifest.csv"])
    command = ["eval", "--dataset", str(folders / "list.csv"), "-m", str(model), "-j", "0"]
    command += ["--views", "1x1", "-o", str(folders / "out")]
    assert run(command) == 0
    assert "the list states 12 frames, and the folder has 10" in capsys.readouterr().err
    assert run([*command[:-1], str(folders / "strict"), "--strict"]) == EXIT_SOME_FAILED
