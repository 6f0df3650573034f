"""The classes of a dataset are mapped to those of a model by name, never by index alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from vtcli.data.samples import Dataset, Sample
from vtcli.errors import DataError
from vtcli.evaluation.class_mapping import match_heads, simplify
from vtcli.labels import load_labels, unverified_labels
from vtcli.weights.checkpoint import HeadSpec


def dataset(classes: dict[str, tuple[str, ...]], *labels: tuple[int, ...]) -> Dataset:
    samples = tuple(Sample(str(n), Path(f"{n}.mp4"), label) for n, label in enumerate(labels))
    return Dataset("mine", samples, classes, "", Path())


def head(*names: str, name: str = "action") -> HeadSpec:
    return HeadSpec(name, len(names), names)


def test_names_decide_in_any_order() -> None:
    (mapping,) = match_heads(dataset({"action": ("run", "sit")}), [head("eat", "sit", "run")])
    assert mapping.model_class == (2, 1)
    assert mapping.warnings == ()


@pytest.mark.parametrize(
    ("name", "model_name"),
    [
        ("Riding_a_bike", "riding a bike"),
        ("Holding [something]", "Holding something"),
        ('"massaging person\'s head"', "massaging person's head"),
        ("ApplyEyeMakeup", "applyeyemakeup"),
    ],
)
def test_spellings_of_one_name_match(name: str, model_name: str) -> None:
    (mapping,) = match_heads(dataset({"action": (name,)}), [head("other", model_name)])
    assert mapping.model_class == (1,)


def test_an_exact_name_is_preferred_to_a_similar_one() -> None:
    (mapping,) = match_heads(dataset({"action": ("a_b",)}), [head("a b", "a_b")])
    assert mapping.model_class == (1,)


def test_no_two_classes_of_a_known_list_are_equal_when_simplified() -> None:
    for stem in ("k400", "k600", "k700", "ssv2", "ucf101", "hmdb51", "epic100_noun"):
        names = load_labels(stem)
        assert len({simplify(name) for name in names}) == len(names)


def test_both_orders_of_kinetics_are_mapped() -> None:
    upstream = load_labels("k400.uniformerv2")
    (mapping,) = match_heads(dataset({"action": load_labels("k400")}), [head(*upstream)])
    assert [upstream[i] for i in mapping.model_class] == list(load_labels("k400"))


def test_missing_names_are_an_error_that_lists_them() -> None:
    with pytest.raises(DataError, match=r"2 of the 3 classes of mine .*'fly', 'swim'"):
        match_heads(dataset({"action": ("run", "fly", "swim")}), [head("run", "sit")])


def test_class_numbers_without_names_use_the_models_order_with_a_warning() -> None:
    (mapping,) = match_heads(dataset({"action": ()}, (0,), (2,)), [head("a", "b", "c")])
    assert mapping.classes == ("a", "b", "c")
    assert "class numbers are assumed to mean the same" in mapping.warnings[0]
    with pytest.raises(DataError, match="has 4 classes and the model 3"):
        match_heads(dataset({"action": ()}, (3,)), [head("a", "b", "c")])


def test_a_model_with_an_unverified_order_needs_the_same_number_of_classes() -> None:
    unnamed = head(*unverified_labels(2))
    (mapping,) = match_heads(dataset({"action": ("x", "y")}), [unnamed])
    assert "not verified" in mapping.warnings[0]
    with pytest.raises(DataError, match="vt convert --labels"):
        match_heads(dataset({"action": ("x", "y", "z")}), [unnamed])


def test_heads_are_matched_by_name() -> None:
    two = dataset({"verb": ("cut",), "noun": ("tap",)})
    heads = [head("tap", "pan", name="noun"), head("wash", "cut", name="verb")]
    verb, noun = match_heads(two, heads)
    assert (verb.head, verb.model_class, noun.head, noun.model_class) == (
        "verb",
        (1,),
        "noun",
        (0,),
    )
    with pytest.raises(DataError, match="labeled with verb and noun"):
        match_heads(two, [head("cut")])
