"""Lists of videos are read in the forms in which spreadsheets and programs write them."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest

from vtcli.errors import DataError, UsageError
from vtcli.inference.inputs import iter_inputs

PATHS = ["a b.mp4", "é.mp4"]
LINES = "\n".join(PATHS) + "\n"
ROWS = "path,label\n" + "".join(f"{path},x\n" for path in PATHS)
LISTS = {
    "plain.txt": LINES.encode(),
    "bom.txt": codecs.BOM_UTF8 + LINES.encode(),
    "windows.txt": LINES.replace("\n", "\r\n").encode(),
    "utf16.txt": LINES.encode("utf-16"),
    "rows.csv": ROWS.encode(),
    "excel.csv": codecs.BOM_UTF8 + ROWS.replace(",", ";").encode(),
    "rows.tsv": ROWS.replace(",", "\t").encode(),
    "rows.jsonl": "".join(json.dumps({"path": path}) + "\n" for path in PATHS).encode(),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_any_form_names_the_same_videos(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(LISTS[name])
    assert list(iter_inputs([], tmp_path / name, None)) == PATHS


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"", "names no video"),
        ("a.txt", b"a.mp4\0b.mp4\0", "null bytes; write one path per line"),
        ("a.csv", b"a.mp4,x\nb.mp4,y\n", "no header; begin it with"),
        ("a.csv", b"place,label\na.mp4,x\n", "no column 'path'.*--column"),
        ("a.jsonl", b"a.mp4\n", "line 1, is not a JSON object"),
        ("a.xlsx", b"PK", "save it as .txt"),
    ],
)
def test_a_list_that_is_none_is_refused(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises((DataError, UsageError), match=says):
        list(iter_inputs([], tmp_path / name, None))


def test_what_a_folder_has_beside_videos_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a/1.mp4", "a/2.MOV", "b.mp4_original", "notes.txt", "photo.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for hidden in ("@eaDir", ".Trash", "$RECYCLE.BIN", "__MACOSX"):
        (tmp_path / hidden).mkdir()
        (tmp_path / hidden / "1.mp4").touch()
    (tmp_path / "a" / "._1.mp4").touch()
    (tmp_path / "gone.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "linked").symlink_to("a")
    found = list(iter_inputs([tmp_path], None, None))
    assert found == [str(tmp_path / "a" / name) for name in ("1.mp4", "2.MOV")]
    assert caplog.messages == [
        f"warning: {tmp_path}: skipped 1 dangling link ('gone.mp4'), 1 link to a folder "
        "('linked'), 1 other file ('b.mp4_original'); to include one, give its path"
    ]


def test_a_folder_of_videos_and_documents_needs_no_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("1.mp4", "labels.csv", "README.md"):
        (tmp_path / name).touch()
    assert list(iter_inputs([tmp_path], None, None)) == [str(tmp_path / "1.mp4")]
    assert caplog.messages == []
