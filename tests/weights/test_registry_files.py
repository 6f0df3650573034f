"""Users' own registry files: what they can change, and the errors for files that are wrong.

A file adds entries, or sources to a known entry, which are tried first. Every error names the file
and the entry.
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

NEW_ENTRY = """
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

[[checkpoint.source]]
kind = "local"
layout = "vt"
serialization = "safetensors"
file = "mine.safetensors"
"""
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def test_a_users_file_adds_an_entry(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VT_REGISTRY", str(write(NEW_ENTRY)))
    registry = load_registry()
    entry = registry.find("videoswin-t.mine-8f")
    assert entry.heads[0].labels == load_labels("ucf101")
    assert (entry.pipeline.frames, entry.pipeline.clips, entry.pipeline.crops) == (8, 1, 1)
    assert entry.available
    assert set(registry.checkpoints) == {*REGISTRY.checkpoints, "videoswin-t.mine-8f"}


def test_the_sources_of_a_users_file_come_before_those_of_a_known_entry(write: Write) -> None:
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


def test_the_error_for_a_broken_file_names_it(write: Write, tmp_path: Path) -> None:
    assert "not valid TOML" in _refusal(write, "[[checkpoint]\nid = 1")
    missing = tmp_path / "none.toml"
    with pytest.raises(DataError, match=re.escape(str(missing))):
        load_registry([missing])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('id = "videoswin-t.mine-8f"', "", "has no id"),
        ("resolution = 224", "resolutoin = 224", "'resolutoin'"),
        ('kind = "local"', 'kind = "local"\nadress = "x"', "'adress'"),
        ('pipeline = "videoswin-kinetics"', 'pipeline = "nothing"', "'nothing'"),
        ('arch = "videoswin"', "", "lacks the key 'arch'"),
        ('dataset = "ucf101"', "", "lacks the key 'dataset'"),
        ("num_classes = 101", "", "lacks the key 'num_classes'"),
        ("frames = 8", "", "lacks the key 'frames'"),
        ('pipeline = "videoswin-kinetics"', "pipeline = 3", "no pipeline 3"),
        ('layout = "vt"', "", "lacks the key 'layout'"),
        ('views = "1x1"', 'views = "all"', "'views' is 'all'"),
        ('views = "1x1"', "views = 3", "'views' is 3"),
        ('views = "1x1"', 'views = "1x1"\npipeline_changes = 1', "'pipeline_changes' is 1"),
        ('views = "1x1"', 'views = "1x1"\npipeline_changes = { frames = 4 }', "'frames'"),
        ('views = "1x1"', 'views = "1x1"\nconfig = 1', "a table"),
        ('views = "1x1"', 'views = "1x1"\nsources = 1', "'sources'"),
        ('views = "1x1"', 'views = "1x1"\nhead = "x"', "'head'"),
        ("resolution = 224", 'resolution = "224"', "a whole number"),
        ('kind = "local"', 'kind = "ftp"', "known are bundled, hub, https, local"),
        (
            'serialization = "safetensors"',
            'serialization = "yes"',
            "known are safetensors, pickle, msgpack",
        ),
        ('kind = "local"', 'kind = "local"\nlink_status = "up"', "known are alive"),
        ('kind = "local"', 'kind = "local"\npermutation = "x"', "no class permutation 'x'"),
        ('kind = "local"', 'kind = "local"\nlabels = "x"', "no class list 'x'"),
        ('labels = "ucf101"', 'labels = "ufc101"', "no class list 'ufc101'"),
        ('labels = "ucf101"', 'labels = "none.txt"', "none.txt does not exist"),
        ('kind = "local"', 'kind = "hub"', "'hub' lacks the key 'repo'"),
        ('kind = "local"', 'kind = "https"', "'https' lacks the key 'url'"),
        ('file = "mine.safetensors"', "", "'local' lacks the key 'file'"),
        ('file = "mine.safetensors"', "file = 1", "text in quotes"),
        ('views = "1x1"', 'views = "1x1"\npipeline_changes = { short = 1 }', "'short'"),
        ('views = "1x1"', 'views = "1x1"\npipeline_changes = { crop_size = 999 }', "crop_size"),
        ("[[checkpoint]]", "[[checkpoints]]", "'checkpoints'"),
        ("[[checkpoint]]", '[pipeline.odd]\nsampling = "x"\n[[checkpoint]]', "'odd'"),
    ],
)
def test_the_error_for_a_wrong_entry_names_it(
    write: Write, old: str, new: str, expected: str
) -> None:
    assert old in NEW_ENTRY
    message = _refusal(write, NEW_ENTRY.replace(old, new))
    assert expected in message
    if "no id" not in expected and new.count("[") == 0:
        assert "videoswin-t.mine-8f" in message


@pytest.mark.parametrize(
    ("old", "new"),
    [("trust", "serialization"), ("state", "link_status"), ("container", "wrapper_keys")],
)
def test_the_error_for_a_renamed_key_names_the_new_one(write: Write, old: str, new: str) -> None:
    message = _refusal(write, NEW_ENTRY + f'{old} = "alive"\n')
    assert f"the key '{old}' of a source is now called '{new}'; rename it" in message
    assert "videoswin-t.mine-8f" in message


def test_a_class_list_of_another_length_is_refused(write: Write) -> None:
    message = _refusal(write, NEW_ENTRY.replace("num_classes = 101", "num_classes = 100"))
    assert "class list 'ucf101' has 101 names, the head 100" in message
    assert "videoswin-t.mine-8f" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('checkpoint = "x"', "write [[checkpoint]]"),
        (NEW_ENTRY.replace("[[checkpoint]]", "[checkpoint]"), "write [[checkpoint]]"),
        ("checkpoint = [1]", "write [[checkpoint]]"),
        ("[[checkpoint]]\nid = [1]", "has no id"),
        ('[[checkpoint]]\nid = "a"\nsource = "x"', "entry 'a': 'source' is not a list"),
        (
            '[[checkpoint]]\nid = "a"\nsource = { kind = "hub" }',
            "entry 'a': 'source' is not a list",
        ),
        ('pipeline = "x"', "'pipeline' is 'x'"),
        ("pipeline.a = 1", "'a' is 1"),
        ('default = "x"', "'default' is 'x'"),
        ('[default]\nmodel = "x"', "'model' is 'x'"),
        ("[default.model]\nvivit = [1]", "'vivit' as [1]"),
        ('[default.dataset]\nk400 = "x"', "'k400' as 'x'"),
        ('[default.models]\nvivit = "x"', "'models'"),
    ],
)
def test_the_error_for_a_file_of_the_wrong_structure_names_it(
    write: Write, text: str, expected: str
) -> None:
    assert expected in _refusal(write, text)


def test_the_error_for_a_file_that_is_not_utf8_names_it(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes("# gr\u00fc\u00dfe".encode("latin-1"))
    with pytest.raises(DataError, match=re.escape(f"{path} is not valid TOML in UTF-8")):
        load_registry([path])


def test_the_error_for_a_source_names_the_file_that_has_it(write: Write, tmp_path: Path) -> None:
    good = tmp_path / "good.toml"
    good.write_text('[[checkpoint]]\nid = "videoswin-t.mine-8f"\nnotes = "mine"')
    bad = write(NEW_ENTRY.replace('kind = "local"', 'kind = "ftp"'))
    with pytest.raises(DataError, match=re.escape(str(bad))):
        load_registry([bad, good])


def test_a_default_without_an_entry_is_refused(write: Write) -> None:
    path = write('[default.model]\nvivit = "vivit-b.gone-8f"')
    with pytest.raises(DataError, match=r"vivit-b\.gone-8f"):
        load_registry([path])


HUB_SOURCE = 'kind = "hub"\nrepo = "me/model"'


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('id = "videoswin-t.mine-8f"', 'id = "../../escape"', "'../../escape'"),
        ('id = "videoswin-t.mine-8f"', 'id = "a/b"', "'a/b'"),
        ('id = "videoswin-t.mine-8f"', 'id = "a b"', "'a b'"),
        ('kind = "local"', 'kind = "hub"\nrepo = "../x"', "write org/name"),
        ('kind = "local"', 'kind = "hub"\nrepo = "a/b/c"', "write org/name"),
        ('kind = "local"', HUB_SOURCE + '\nrevision = "../main"', "a commit or tag"),
        ('kind = "local"', 'kind = "https"\nurl = "file:///etc/passwd"', "an https address"),
        ('kind = "local"', 'kind = "https"\nurl = "http://example.org/a"', "an https address"),
        ('kind = "local"', 'kind = "https"\nurl = "ftp://example.org/a"', "an https address"),
        ('kind = "local"', 'kind = "https"\nurl = "https://a@b/c"', "an https address"),
        ('kind = "local"', 'kind = "local"\nsha256 = "../x"', "hexadecimal digits"),
    ],
)
def test_an_address_stays_in_its_place(write: Write, old: str, new: str, expected: str) -> None:
    assert expected in _refusal(write, NEW_ENTRY.replace(old, new))


@pytest.mark.parametrize("file", ["../../x.safetensors", "/etc/passwd", "a/../../b", ".hidden"])
@pytest.mark.parametrize("kind", ['kind = "bundled"', HUB_SOURCE])
def test_a_file_name_stays_in_its_folder(write: Write, kind: str, file: str) -> None:
    text = NEW_ENTRY.replace('kind = "local"', kind).replace("mine.safetensors", file)
    assert "'file' of a source" in _refusal(write, text)


@pytest.mark.parametrize("name", ["https://host/registry.toml", "file:///etc/passwd"])
def test_an_address_is_not_a_registry(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VT_REGISTRY", name)
    with pytest.raises(DataError, match=f"the registry {name} is neither a file nor hf://"):
        load_registry()


def test_a_registry_that_is_nested_without_end_is_not_toml(tmp_path: Path) -> None:
    path = tmp_path / "deep.toml"
    path.write_text("a = " + "[" * 100_000)
    with pytest.raises(DataError, match=re.escape(f"{path} is not valid TOML")):
        load_registry([path])
