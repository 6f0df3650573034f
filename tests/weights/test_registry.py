"""The registry is consistent: every entry resolves, and every class order is accounted for.

Expected values are those of the published model zoos and papers, written out here.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest

from vtcli.errors import UnknownModelError
from vtcli.labels import load_labels, load_permutation
from vtcli.models import get_architecture, with_overrides
from vtcli.weights.registry import Checkpoint, Registry, Source, load_registry

REGISTRY = load_registry(extra=())
# The bundled models have no upstream: see test_bundled.py.
ENTRIES = [entry for entry in REGISTRY.checkpoints.values() if entry.dataset != "motion8"]
SOURCES = [(entry, source) for entry in ENTRIES for source in entry.sources]

DATASETS = {"k400", "k600", "k700", "k710", "ssv1", "ssv2", "mit", "activitynet", "hacs", "epic100"}
ID = re.compile(
    r"(?P<model>(uniformerv2|videoswin|vivit|xvit)-[a-z0-9]+(-[a-z0-9]+)*)"
    r"\.(?P<data>k400|k600|k700|k710|ssv1|ssv2|mit|anet|hacs|epic100)(-[a-z0-9]+)*"
    r"-(?P<frames>\d+)f(-mm|-tv|-time)?"
)

# Official files in each folder of the authors' bucket: 49 in all.
OFFICIAL_UNIFORMERV2 = {
    "k710": 4,
    "k400": 10,
    "k600": 10,
    "k700": 10,
    "mitv1": 3,
    "sthv1": 4,
    "sthv2": 4,
    "anet": 2,
    "hacs": 2,
}
# mmaction2's 25 UniFormerV2 files, by the digits of their sha256 in their names.
MMACTION2_TRAININGS = {"e29fc968", "75be0806", "544f06f0", "f02e48ad", "69070837", "a6f4a567"}
MMACTION2_PORTS = {
    *("972ea063", "6dc86d05", "56a46f64", "1dd7650f"),  # K400
    *("cf88e4c2", "38ff0e3e", "d450d071", "f984f5d2"),  # K600
    *("bfb9f401", "745209d2", "eebe7056", "95cf9046"),  # K700
    *("63cdbad9", "d002a407", "d723ddc1"),  # K710
    *("882c0598", "9020986e"),  # Moments in Time
    *("77d34f81", "203d6aac"),  # older, named in mmaction2's configs only
}
# Of the first 400 classes of K710, those that later Kinetics versions renamed.
K710_RENAMES = {
    12: "inflating balloons",
    53: "changing wheel (not on bike)",
    73: "cooking sausages (not on barbeque)",
    100: "sipping cup",
    108: "dyeing hair",
    136: "person collecting garbage",
    158: "hugging (not baby)",
    186: "making the bed",
    203: "opening bottle (not wine)",
    214: "picking apples",
    308: "skiing mono",
    320: "smelling feet",
    370: "tying necktie",
}


def _entry_id(entry: Checkpoint) -> str:
    return entry.id


every_entry = pytest.mark.parametrize("entry", ENTRIES, ids=_entry_id)


@every_entry
def test_an_id_has_the_documented_form_and_agrees_with_its_entry(entry: Checkpoint) -> None:
    match = ID.fullmatch(entry.id)
    assert match, entry.id
    assert match["model"] == entry.model
    assert match["data"] == ("anet" if entry.dataset == "activitynet" else entry.dataset)
    assert int(match["frames"]) == entry.frames
    assert entry.dataset in DATASETS
    assert entry.model.startswith(entry.arch)


@every_entry
def test_every_model_is_published_and_accepts_the_changes_of_its_entry(entry: Checkpoint) -> None:
    preset = get_architecture(entry.arch).presets[entry.model]
    config = with_overrides(
        preset, {"num_classes": entry.num_classes, "num_frames": entry.frames, **entry.config}
    )
    if len(entry.heads) > 1:
        assert config.heads == tuple((head.name, head.size) for head in entry.heads)


@every_entry
def test_a_pipeline_has_the_frames_views_and_size_of_its_entry(entry: Checkpoint) -> None:
    assert entry.pipeline.frames == entry.frames
    assert f"{entry.pipeline.clips}x{entry.pipeline.crops}" == entry.views
    assert entry.pipeline.crop_size == entry.resolution


@every_entry
def test_an_entry_is_tested_as_its_upstream_tests_it(entry: Checkpoint) -> None:
    kind = "something" if entry.dataset.startswith("ssv") else "kinetics"
    kind = "epic" if entry.dataset == "epic100" else kind
    kind = "mmaction2" if entry.id.endswith("-mm") else kind
    kind = "torchvision" if entry.id.endswith("-tv") else kind
    named = REGISTRY.pipelines[f"{entry.arch}-{kind}"]
    own = {name: getattr(entry.pipeline, name) for name in ("frames", "clips", "crops")}
    if entry.resolution == 336:
        own |= {"short_side": 336, "crop_size": 336}
    assert entry.pipeline == replace(named, **own)


def test_uniformerv2_takes_bgr_frames_on_something_something_only() -> None:
    bgr_datasets = {entry.dataset for entry in ENTRIES if entry.pipeline.channel_order == "bgr"}
    assert bgr_datasets == {"ssv1", "ssv2"}
    assert REGISTRY.find("xvit-b.ssv2-16f").pipeline.channel_order == "rgb"


@every_entry
def test_every_head_has_a_class_list_of_its_size_or_states_why_not(entry: Checkpoint) -> None:
    for head in entry.heads:
        assert len(head.labels) == head.size
        assert head.confidence
        if not head.label_list:
            assert head.confidence.startswith("unknown")
            assert head.labels[17] == "class 17 (order unverified)"


@every_entry
def test_every_source_is_permuted_to_the_class_order_of_its_entry(entry: Checkpoint) -> None:
    if len(entry.heads) > 1 or not entry.heads[0].label_list:
        assert not any(s.permutation for s in entry.sources)
        return
    expected = entry.heads[0].labels
    for source in entry.sources:
        upstream = load_labels(source.labels)
        permutation = (
            load_permutation(source.permutation) if source.permutation else range(len(upstream))
        )
        assert sorted(permutation) == list(range(len(expected)))
        permuted = [upstream[i] for i in permutation]
        if source.labels == "k710.uniformerv2":
            renamed = {i: name for i, name in enumerate(expected) if permuted[i] != name}
            assert renamed == K710_RENAMES
        else:
            assert permuted == list(expected)


def test_official_uniformerv2_files_and_their_ports_have_different_class_orders() -> None:
    entry = REGISTRY.find("uniformerv2-l.k400-k710-8f")
    orders = {s.layout: (s.labels, s.permutation) for s in entry.sources}
    assert orders == {
        "mmaction2": ("k400", ""),
        "official": ("k400.uniformerv2", "uniformerv2_to_alpha_k400"),
    }


def test_xvit_entries_state_how_frames_are_mixed() -> None:
    mixing = {entry.id: dict(entry.config) for entry in ENTRIES if entry.arch == "xvit"}
    assert mixing["xvit-b.k600-16f"] == {"shift_segments": 8, "shift_div": 8}
    assert mixing["xvit-b.ssv2-16f"] == {"shift_segments": 16, "shift_div": 4}


def test_the_epic_kitchens_checkpoint_has_nouns_before_verbs() -> None:
    heads = REGISTRY.find("vivit-l-fe.epic100-32f").heads
    assert [(h.name, h.size, h.label_list) for h in heads] == [
        ("noun", 300, "epic100_noun"),
        ("verb", 97, "epic100_verb"),
    ]


def test_all_49_official_uniformerv2_files_are_listed_once() -> None:
    urls = [s.url for _, s in SOURCES if "pjlab-gvm-data" in s.url]
    assert len(urls) == len(set(urls)) == 49
    assert Counter(url.split("/")[4] for url in urls) == OFFICIAL_UNIFORMERV2


def test_all_25_mmaction2_uniformerv2_files_are_listed_once() -> None:
    prefixes = [
        s.sha256_prefix
        for entry, s in SOURCES
        if s.layout == "mmaction2" and entry.arch == "uniformerv2"
    ]
    assert len(prefixes) == 25
    assert set(prefixes) == MMACTION2_TRAININGS | MMACTION2_PORTS


def test_other_upstreams_files_are_all_listed() -> None:
    by_arch = Counter((entry.arch, s.layout) for entry, s in SOURCES)
    assert by_arch["videoswin", "official"] == 7
    assert by_arch["videoswin", "mmaction2"] == 6
    assert (
        by_arch["videoswin", "torchvision"] == 2 * 4
    )  # in the authors' entry and in the entry -tv
    assert by_arch["vivit", "scenic"] == 5
    assert by_arch["vivit", "hf"] == 3
    assert by_arch["xvit", "official"] == 4


def test_models_trained_by_mmaction2_have_their_own_ids_and_ports_do_not() -> None:
    for entry, source in SOURCES:
        if source.layout == "mmaction2":
            trained = entry.arch == "videoswin" or source.sha256_prefix in MMACTION2_TRAININGS
            assert entry.id.endswith("-mm") == trained, source.url


def test_torchvision_files_are_in_the_authors_entry_and_in_their_own() -> None:
    ids: dict[str, set[str]] = {}
    for entry, source in SOURCES:
        if source.layout == "torchvision":
            ids.setdefault(source.url, set()).add(entry.id)
    assert len(ids) == 4
    for pair in ids.values():
        official = min(pair, key=len)
        assert pair == {official, f"{official}-tv"}
        assert REGISTRY.find(f"{official}-tv").views == "12x1"


@pytest.mark.parametrize(
    ("entry", "source"), [pytest.param(r, s, id=f"{r.id}:{s.address}") for r, s in SOURCES]
)
def test_a_source_states_its_location_digest_and_link_status(
    entry: Checkpoint, source: Source
) -> None:
    if source.kind == "hub":
        assert source.repo
        assert source.file
        # An unverified source is bound by the digest of its tensors instead of a commit.
        assert source.unverified or re.fullmatch(r"[0-9a-f]{40}", source.revision)
    else:
        assert source.kind == "https"
        assert source.url.startswith("https://")
    if source.sha256:
        assert re.fullmatch(r"[0-9a-f]{64}", source.sha256)
        assert source.sha256_source
    elif source.sha256_prefix:
        assert re.fullmatch(r"[0-9a-f]{8}", source.sha256_prefix)
        assert source.sha256_prefix in source.url
    else:
        assert source.sha256_source.startswith("none ")
    assert source.checked
    if source.link_status in ("alive", "likely", "dead"):
        assert re.match(r"20\d\d(-\d\d-\d\d)? \(", source.checked)
    if source.link_status == "dead":
        assert source is entry.sources[-1]
    assert source.layout in ("official", "mmaction2", "torchvision", "hf", "scenic")


@every_entry
def test_official_uniformerv2_file_names_agree_with_their_entries(entry: Checkpoint) -> None:
    for source in entry.sources:
        match = re.search(
            r"/(?P<frozen>frozen_)?(?P<data>[a-z0-9]+)(?P<k710>_k710)?_uniformerv2_(?P<size>[bl])\d+"
            r"_(?P<frames>\d+)x(?P<side>\d+)\.pyth$",
            source.url,
        )
        if match is None:
            continue
        data = {"sthv1": "ssv1", "sthv2": "ssv2", "anet": "activitynet"}.get(
            match["data"], match["data"]
        )
        model = f"uniformerv2-{match['size']}"
        model += "336" * (match["side"] == "336") + "-frozen" * bool(match["frozen"])
        model += "-local" * data.startswith("ssv")
        assert (entry.dataset, entry.model) == (data, model)
        assert (entry.frames, entry.resolution) == (int(match["frames"]), int(match["side"]))
        assert ("-k710-" in entry.id) == (
            bool(match["k710"]) or data in ("mit", "activitynet", "hacs")
        )


@pytest.mark.parametrize(
    ("checkpoint_id", "views", "top1", "top5"),
    [
        ("uniformerv2-b.k400-k710-8f", "4x3", 85.6, 97.0),
        ("uniformerv2-l336.k400-k710-64f", "2x3", 90.0, 98.4),
        ("uniformerv2-l336-frozen.k600-8f", "3x1", 87.4, None),
        ("uniformerv2-l-local.ssv2-32f", "1x3", 73.0, 94.5),
        ("uniformerv2-l.anet-k710-k400-16f", "10x3", 94.3, None),
        ("uniformerv2-b.mit-k710-k400-8f-mm", "4x3", 42.3, 71.5),
        ("videoswin-t.k400-in1k-32f", "4x3", 78.8, 93.6),
        ("videoswin-t.k400-in1k-32f-tv", "12x1", 77.715, 93.519),
        ("videoswin-b-w16.ssv2-k400-32f", "1x3", 69.6, 92.7),
        ("videoswin-l.k700-in22k-32f-mm", "4x3", 75.92, 92.72),
        ("vivit-b.k400-in21k-32f", "4x3", 79.9, None),
        ("vivit-l-fe.epic100-32f", "4x1", 43.6, None),
        ("xvit-b.k600-16f", "1x3", 84.51, 96.26),
        ("xvit-b.ssv2-16f", "2x3", 67.19, 91.0),
    ],
)
def test_published_accuracy_and_protocol(
    checkpoint_id: str, views: str, top1: float, top5: float | None
) -> None:
    entry = REGISTRY.find(checkpoint_id)
    assert (entry.views, entry.top1, entry.top5) == (views, top1, top5)


@pytest.mark.parametrize(
    ("checkpoint_id", "views", "total"),
    [
        ("uniformerv2-b.k400-k710-8f", 12, 1600),
        ("uniformerv2-b.mit-k710-k400-8f", 12, 1800),
        ("uniformerv2-l336.k700-k710-64f", 6, 75300),
        ("uniformerv2-l-local.ssv2-32f", 3, 5200),
        ("xvit-b.k600-16f", 3, 850),
        ("videoswin-t.k400-in1k-32f", 1, 87.9),
        ("vivit-b.k400-in21k-32f", 1, 455.2),
    ],
)
def test_costs_are_those_printed_divided_by_their_views(
    checkpoint_id: str, views: int, total: float
) -> None:
    gmacs = REGISTRY.find(checkpoint_id).gmacs
    assert gmacs is not None
    assert gmacs * views == pytest.approx(total, abs=0.05 * views)


@every_entry
def test_every_published_value_has_a_source(entry: Checkpoint) -> None:
    assert (entry.top1 is not None) == bool(entry.metric_source)
    if entry.params is not None or entry.gmacs is not None:
        assert entry.cost_source
    assert entry.license


def test_a_misprinted_cost_is_noted_but_not_listed() -> None:
    entry = REGISTRY.find("videoswin-s.k710-in1k-32f-mm")
    assert (entry.params, entry.gmacs) == (None, None)
    assert "604" in entry.cost_note


def test_family_and_model_names_are_aliases() -> None:
    assert REGISTRY.find("uniformerv2-b").id == "uniformerv2-b.k400-k710-8f"
    for family in ("uniformerv2", "videoswin", "vivit", "xvit"):
        assert REGISTRY.find(family) is REGISTRY.find(f"{family}-b")
    for model in {entry.model for entry in ENTRIES}:
        assert REGISTRY.find(model).model == model


def test_an_alias_is_unavailable_only_if_all_checkpoints_of_its_model_are() -> None:
    for model in {entry.model for entry in ENTRIES}:
        available = any(entry.available for entry in ENTRIES if entry.model == model)
        assert REGISTRY.find(model).available == available


@pytest.mark.parametrize("dataset", sorted(DATASETS))
def test_the_default_of_a_dataset_is_its_best_checkpoint_with_known_classes(dataset: str) -> None:
    ids = REGISTRY.dataset_defaults[dataset]
    entries = [REGISTRY.checkpoints[checkpoint_id] for checkpoint_id in ids]
    assert {entry.dataset for entry in entries} == {dataset}
    assert {r.id for r in entries} == {
        r.id for r in ENTRIES if r.dataset == dataset and r.top1 is not None
    }
    ranks = [(all(h.label_list for h in entry.heads), entry.top1) for entry in entries]
    assert ranks == sorted(ranks, reverse=True)


def test_the_first_available_checkpoint_is_the_default_of_a_dataset() -> None:
    assert REGISTRY.default_for_dataset("k400").id == "uniformerv2-l336.k400-k710-32f"
    assert REGISTRY.default_for_dataset("ssv2").id == "videoswin-b-w16.ssv2-k400-32f"
    with pytest.raises(UnknownModelError, match="'hacs'"):
        REGISTRY.default_for_dataset("hacs")


def test_files_with_unknown_tensor_names_are_listed_but_never_used() -> None:
    not_convertible = {entry.id for entry, s in SOURCES if not s.convertible}
    assert not_convertible == {"xvit-b.ssv2-in1k-8f-time", "xvit-b.ssv2-in1k-selfsup-8f-time"}
    assert not any(REGISTRY.find(checkpoint_id).available for checkpoint_id in not_convertible)


def test_the_error_for_an_unknown_name_suggests_the_nearest_ones() -> None:
    with pytest.raises(UnknownModelError, match=r"unknown model 'videoswim-t'.*videoswin-t"):
        REGISTRY.find("videoswim-t")
    with pytest.raises(UnknownModelError, match="vt models list"):
        REGISTRY.find("zzzz")


def test_patterns_match_ids_and_models() -> None:
    assert len(REGISTRY.match("vivit*")) == 6
    assert [entry.id for entry in REGISTRY.match("uniformerv2")] == ["uniformerv2-b.k400-k710-8f"]
    assert {entry.model for entry in REGISTRY.match("xvit-b")} == {"xvit-b"}


def test_the_registry_is_loaded_once() -> None:
    assert isinstance(REGISTRY, Registry)
    assert load_registry(extra=()) is REGISTRY
