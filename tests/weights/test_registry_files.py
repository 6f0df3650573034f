"""What users' own registry files may do, and how a file that does not fit is refused.

A file adds rows or puts its sources in front of a known one; every refusal names the file and,
where there is one, the row.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from vtcli.errors import DataError
from vtcli.labels import load_labels
from vtcli.weights.registry import load_registry

REGISTRY = load_registry(extra=())

NEW_ROW = """
[[checkpoint]]
id = "videoswin-t.mine-8f"
arch = "videoswin"
model = "videoswin-t"
dataset = "ucf101"
num_classes = 101
labels = "ucf101"
frames = 8
resolution = 224
views = "1x1"
pipeline = "videoswin-kinetics"
source = [{ kind = "local", layout = "vt", serialization = "safetensors", file = "mine.safetensors" }]
"""
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def test_a_users_file_adds_a_row(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VT_REGISTRY", str(write(NEW_ROW)))
    registry = load_registry()
    row = registry.find("videoswin-t.mine-8f")
    assert row.heads[0].labels == load_labels("ucf101")
    assert (row.pipeline.frames, row.pipeline.clips, row.pipeline.crops) == (8, 1, 1)
    assert row.available
    assert set(registry.checkpoints) == {*REGISTRY.checkpoints, "videoswin-t.mine-8f"}


def test_a_users_file_puts_its_sources_in_front_of_a_known_row(write: Write) -> None:
    registry = load_registry(
        [
            write(
                """
                [[checkpoint]]
                id = "vivit-b.k400-in21k-32f"
                [[checkpoint.source]]
                kind = "hub"
                layout = "vt"
                serialization = "safetensors"
                repo = "me/vivit"
                file = "vivit.safetensors"
                [default.model]
                vivit = "vivit-b-fe.k400-in21k-32f"
                [default.dataset]
                k400 = ["vivit-b.k400-in21k-32f"]
                """
            )
        ]
    )
    known, merged = REGISTRY.find("vivit-b"), registry.find("vivit-b")
    assert merged.sources[0].repo == "me/vivit"
    assert merged.sources[1:] == known.sources
    assert (merged.heads, merged.top1, merged.pipeline) == (known.heads, known.top1, known.pipeline)
    assert registry.find("vivit").id == "vivit-b-fe.k400-in21k-32f"
    assert registry.default_for_dataset("k400") is merged


def _refusal(write: Write, text: str) -> str:
    path = write(text)
    with pytest.raises(DataError) as caught:
        load_registry([path])
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_broken_file_is_refused_by_name(write: Write, tmp_path: Path) -> None:
    assert "not valid TOML" in _refusal(write, "[[checkpoint]\nid = 1")
    missing = tmp_path / "none.toml"
    with pytest.raises(DataError, match=re.escape(str(missing))):
        load_registry([missing])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('id = "videoswin-t.mine-8f"', "", "without an id"),
        ("resolution = 224", "resolutoin = 224", "'resolutoin'"),
        ('kind = "local"', 'kind = "local", adress = "x"', "'adress'"),
        ('pipeline = "videoswin-kinetics"', 'pipeline = "nothing"', "'nothing'"),
        ('arch = "videoswin"', "", "lacks the key 'arch'"),
        ('dataset = "ucf101"', "", "lacks the key 'dataset'"),
        ("num_classes = 101", "", "lacks the key 'num_classes'"),
        ("frames = 8", "", "lacks the key 'frames'"),
        ('pipeline = "videoswin-kinetics"', "pipeline = 3", "no pipeline 3"),
        ('layout = "vt", ', "", "lacks the key 'layout'"),
        ('views = "1x1"', 'views = "all"', "'views' is 'all'"),
        ('views = "1x1"', "views = 3", "'views' is 3"),
        ('views = "1x1"', 'views = "1x1"\npipeline_changes = 1', "'pipeline_changes' is 1"),
        ('views = "1x1"', 'views = "1x1"\npipeline_changes = { frames = 4 }', "'frames'"),
        ('views = "1x1"', 'views = "1x1"\nconfig = 1', "a table"),
        ('views = "1x1"', 'views = "1x1"\nsources = 1', "'sources'"),
        ('views = "1x1"', 'views = "1x1"\nhead = "x"', "'head'"),
        ("resolution = 224", 'resolution = "224"', "a whole number"),
        ('kind = "local"', 'kind = "ftp"', "known are bundled, hub, https, local"),
        ('serialization = "safetensors"', 'serialization = "yes"', "known are safetensors, pickle, msgpack"),
        ('kind = "local"', 'kind = "local", link_status = "up"', "known are alive"),
        ('kind = "local"', 'kind = "local", permutation = "x"', "no class permutation 'x'"),
        ('kind = "local"', 'kind = "local", labels = "x"', "no class list 'x'"),
        ('labels = "ucf101"', 'labels = "ufc101"', "no class list 'ufc101'"),
        ('labels = "ucf101"', 'labels = "none.txt"', "none.txt does not exist"),
        ('kind = "local"', 'kind = "hub"', "'hub' lacks the key 'repo'"),
        ('kind = "local"', 'kind = "https"', "'https' lacks the key 'url'"),
        (', file = "mine.safetensors"', "", "'local' lacks the key 'file'"),
        (', file = "mine.safetensors"', ", file = 1", "text in quotes"),
        ('views = "1x1"', 'views = "1x1"\npipeline_changes = { short = 1 }', "'short'"),
        ('views = "1x1"', 'views = "1x1"\npipeline_changes = { crop_size = 999 }', "crop_size"),
        ("[[checkpoint]]", "[[checkpoints]]", "'checkpoints'"),
        ("[[checkpoint]]", '[pipeline.odd]\nsampling = "x"\n[[checkpoint]]', "'odd'"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_by_name(
    write: Write, old: str, new: str, said: str
) -> None:
    assert old in NEW_ROW
    message = _refusal(write, NEW_ROW.replace(old, new))
    assert said in message
    if "without" not in said and new.count("[") == 0:
        assert "videoswin-t.mine-8f" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('checkpoint = "x"', "write [[checkpoint]]"),
        (NEW_ROW.replace("[[checkpoint]]", "[checkpoint]"), "write [[checkpoint]]"),
        ("checkpoint = [1]", "write [[checkpoint]]"),
        ("[[checkpoint]]\nid = [1]", "without an id"),
        ('[[checkpoint]]\nid = "a"\nsource = "x"', "row 'a': 'source' is not a list"),
        ('[[checkpoint]]\nid = "a"\nsource = { kind = "hub" }', "row 'a': 'source' is not a list"),
        ('pipeline = "x"', "'pipeline' is 'x'"),
        ("pipeline.a = 1", "'a' is 1"),
        ('default = "x"', "'default' is 'x'"),
        ('[default]\nmodel = "x"', "'model' is 'x'"),
        ("[default.model]\nvivit = [1]", "'vivit' as [1]"),
        ('[default.dataset]\nk400 = "x"', "'k400' as 'x'"),
        ('[default.models]\nvivit = "x"', "'models'"),
    ],
)
def test_a_file_of_the_wrong_shape_is_refused_by_name(write: Write, text: str, said: str) -> None:
    assert said in _refusal(write, text)


def test_a_file_that_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes("# gr\u00fc\u00dfe".encode("latin-1"))
    with pytest.raises(DataError, match=re.escape(f"{path} is not valid TOML in UTF-8")):
        load_registry([path])


def test_a_source_is_blamed_on_the_file_that_holds_it(write: Write, tmp_path: Path) -> None:
    good = tmp_path / "good.toml"
    good.write_text('[[checkpoint]]\nid = "videoswin-t.mine-8f"\nnotes = "mine"')
    bad = write(NEW_ROW.replace('kind = "local"', 'kind = "ftp"'))
    with pytest.raises(DataError, match=re.escape(str(bad))):
        load_registry([bad, good])


def test_a_default_that_is_no_row_is_refused(write: Write) -> None:
    path = write('[default.model]\nvivit = "vivit-b.gone-8f"')
    with pytest.raises(DataError, match=r"vivit-b\.gone-8f"):
        load_registry([path])
