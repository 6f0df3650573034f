"""The class lists, splits and names in the catalog are consistent."""

from __future__ import annotations

import pytest

from vtcli.data.annotations import FORMATS
from vtcli.data.catalog import canonical_split, find_entry, load_catalog
from vtcli.errors import UsageError
from vtcli.weights.registry import load_registry

ENTRIES = load_catalog().values()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.name)
def test_every_class_list_has_as_many_names_as_its_dataset_has_classes(entry) -> None:
    for head in entry.heads:
        names = head.class_names()
        assert len(names) == (head.size if head.labels else 0)
        assert all(len(order) == head.size for order in head.known_orders().values())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.name)
def test_every_entry_has_its_default_split_and_a_supported_format(entry) -> None:
    assert entry.default_split in entry.splits
    assert entry.format in (*FORMATS, "")
    assert all(split.files for split in entry.splits.values())
    assert all(canonical_split(name) == name for name in entry.splits)
    tested = [name for name in entry.splits if name.isdecimal()]
    assert entry.official_splits == (len(tested) or 1)
    assert (entry.frame_rate is None) == (entry.frame_names == "")


def test_every_checkpoint_has_the_classes_of_its_dataset() -> None:
    catalog = load_catalog()
    for row in load_registry().checkpoints.values():
        sizes = {head.name: head.size for head in catalog[row.dataset].heads}
        assert {head.name: head.size for head in row.heads} == sizes, row.id


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("kinetics400", "k400"),
        ("Kinetics-400", "k400"),
        ("something-something-v2", "ssv2"),
        ("Something_Something_V2", "ssv2"),
        ("EPIC-Kitchens-100", "epic100"),
        ("UCF-101", "ucf101"),
        ("ActivityNet-1.3", "activitynet"),
    ],
)
def test_other_spellings_find_the_same_dataset(spelling: str, name: str) -> None:
    assert find_entry(spelling).name == name


def test_no_two_datasets_share_a_spelling() -> None:
    words = [word for entry in ENTRIES for word in (entry.name, *entry.aliases)]
    for word in words:
        owner = next(e for e in ENTRIES if word in (e.name, *e.aliases))
        assert find_entry(word) is owner


def test_an_unknown_name_is_refused_with_a_similar_one() -> None:
    with pytest.raises(UsageError, match="did you mean k400") as caught:
        find_entry("k4000")
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="vt datasets list"):
        find_entry("charades")


def test_datasets_with_directions_in_class_names_are_flip_sensitive() -> None:
    assert {e.name for e in ENTRIES if e.flip_sensitive} == {"ssv1", "ssv2", "jester", "motion8"}


@pytest.mark.parametrize(
    ("word", "split"),
    [
        ("val", "validation"),
        ("VALIDATE", "validation"),
        ("dev", "validation"),
        ("training", "train"),
        ("testing", "test"),
        ("split 1", "1"),
        ("test01", "1"),
        ("train2", "train2"),
        ("fold-a", "fold-a"),
    ],
)
def test_every_split_has_one_canonical_name(word: str, split: str) -> None:
    assert canonical_split(word) == split
