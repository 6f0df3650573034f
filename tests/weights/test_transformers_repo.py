"""A ViViT in transformers' form gives the logits and labels that transformers gives."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.hub import Hub
from tests.weights.hf_models import (
    LABELS,
    PROCESSORS,
    expected_logits,
    make_model,
    make_processor,
    our_logits,
)
from vtcli import Predictor
from vtcli.errors import (
    DataError,
    InputError,
    LayoutError,
    UnknownModelError,
    UsageError,
    WeightsError,
)
from vtcli.weights.checkpoint import open_tensors, read_card
from vtcli.weights.convert import convert
from vtcli.weights.repository import HubName, hub_name
from vtcli.weights.resolve import lookup, resolve

REPO = "someone/vivit-falls"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "model"


@pytest.fixture
def hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return hub


def upload(hub: Hub, folder: Path, repo: str = REPO) -> None:
    hub.add_repo(repo, {path.name: path.read_bytes() for path in folder.iterdir()})


def same_logits(name: str, folder: Path, video: Path, gray: bool = False) -> None:
    ours, labels = our_logits(name, video)
    assert labels == LABELS
    assert (ours - expected_logits(folder, video, gray)).abs().max() < 1e-4


@pytest.mark.parametrize(
    "config",
    [
        {"num_frames": 8, "tubelet_size": [1, 16, 16]},
        {"num_frames": 10, "num_attention_heads": 1},
        {"num_frames": 16, "tubelet_size": [4, 8, 8], "num_attention_heads": 6},
        {"num_frames": 32, "num_attention_heads": 12, "hidden_size": 96},
        {"num_frames": 19, "tubelet_size": [19, 16, 16]},
        {"num_frames": 9, "tubelet_size": [2, 16, 16]},
        {"hidden_act": "gelu", "layer_norm_eps": 1e-3},
        {"qkv_bias": False, "hidden_act": "quick_gelu"},
    ],
    ids=str,
)
def test_every_configuration_gives_upstreams_logits(
    folder: Path, video: Path, config: dict[str, Any]
) -> None:
    make_model(folder, **config)
    make_processor(folder)
    same_logits(str(folder), folder, video)


@pytest.mark.parametrize("side", [112, 224])
def test_published_frame_sizes_give_upstreams_logits(folder: Path, video: Path, side: int) -> None:
    make_model(folder, image_size=side)
    make_processor(folder, side)
    same_logits(str(folder), folder, video)


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_the_repositorys_processor(
    folder: Path, video: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_model(folder)
    make_processor(folder, **PROCESSORS[name])
    same_logits(str(folder), folder, video)
    low, high = name.strip("[]").split(",")
    lines = [record.getMessage() for record in caplog.records]
    (line,) = [line for line in lines if "preprocessor_config.json" in line]
    assert f"values {low} to {high}" in line
    assert "--pipeline changes it" in line


@pytest.mark.parametrize(
    "options",
    [
        *({"resample": filter} for filter in range(6)),
        {"size": {"height": 40, "width": 56}},
        {"size": {"height": 32, "width": 32}, "do_center_crop": False},
        {"size": {"shortest_edge": 32}},
        {"do_resize": False},
        {"do_rescale": False, "offset": False, "image_mean": [120.0, 110.0, 100.0]},
        {"do_rescale": False, "offset": False, "do_normalize": False},
        {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "offset": False},
        {"rescale_factor": 0.01, "offset": True},
    ],
    ids=str,
)
def test_every_option_of_the_processor_is_followed(
    folder: Path, video: Path, options: dict[str, Any]
) -> None:
    make_model(folder)
    make_processor(folder, **options)
    same_logits(str(folder), folder, video)


def test_a_network_of_one_channel_sees_gray_frames(folder: Path, video: Path) -> None:
    make_model(folder, num_channels=1)
    make_processor(folder, image_mean=[0.5], image_std=[0.5])
    same_logits(str(folder), folder, video, gray=True)


@pytest.mark.parametrize("form", ["safetensors", "sharded", "bin", "bin-sharded", "half"])
def test_weights_are_read_in_every_form_that_transformers_writes(
    folder: Path, video: Path, form: str
) -> None:
    model = make_model(folder)
    make_processor(folder)
    expected = expected_logits(folder, video)
    (folder / "model.safetensors").unlink()
    if form == "half":
        model.half().save_pretrained(folder)
        expected = expected_logits(folder, video)
    elif form == "safetensors" or form == "sharded":
        model.save_pretrained(folder, max_shard_size="40kB" if form == "sharded" else "1GB")
    else:
        names = list(model.state_dict())
        parts = [names] if form == "bin" else [names[:9], names[9:]]
        index = {}
        for number, part in enumerate(parts, 1):
            name = "pytorch_model.bin" if form == "bin" else f"pytorch_model-{number}.bin"
            torch.save({n: model.state_dict()[n] for n in part}, folder / name)
            index |= dict.fromkeys(part, name)
        if form == "bin-sharded":
            table = {"metadata": {}, "weight_map": index}
            (folder / "pytorch_model.bin.index.json").write_text(json.dumps(table))
    assert (folder / "model.safetensors").exists() == (form in ("safetensors", "half"))
    ours, labels = our_logits(str(folder), video)
    assert labels == LABELS
    assert (ours - expected).abs().max() < 1e-4


def write_config(folder: Path, **changes: Any) -> None:
    """Change keys of config.json; None removes one."""
    table = {**json.loads((folder / "config.json").read_text()), **changes}
    text = json.dumps({key: value for key, value in table.items() if value is not None})
    (folder / "config.json").write_text(text)


@pytest.mark.parametrize("name", ["hf://" + REPO, REPO, f"hf://{REPO}@main"])
def test_a_repository_of_the_hub_is_named_like_a_model(
    hub: Hub, folder: Path, video: Path, name: str
) -> None:
    make_model(folder)
    make_processor(folder)
    upload(hub, folder)
    same_logits(name, folder, video)
    card = lookup(name)
    assert card.source["address"] == name if name.startswith("hf://") else f"hf://{name}"
    assert card.source["facts"]["labels"] == "id2label of config.json"
    assert card.source["facts"]["pixels"] == "preprocessor_config.json"


def test_a_repository_is_converted_once_per_commit(hub: Hub, folder: Path) -> None:
    make_model(folder)
    make_processor(folder)
    upload(hub, folder)
    first = resolve(REPO).path
    assert resolve(REPO).path == first
    assert len(hub.asked("GET", "/objects/")) == 1
    make_model(folder, id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1})
    upload(hub, folder)
    assert resolve(REPO).card.labels == ("a", "b")


def test_a_converted_repository_needs_no_connection(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    make_model(folder)
    make_processor(folder)
    upload(hub, folder)
    found = resolve(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve(REPO) == found


def test_a_folder_that_changes_is_converted_again_and_leaves_one_file(folder: Path) -> None:
    make_model(folder)
    make_processor(folder)
    first = resolve(folder).path
    write_config(folder, id2label={"0": "x", "1": "y", "2": "z"})
    assert resolve(folder).card.labels == ("x", "y", "z")
    assert not first.exists()


def test_a_missing_repository_is_named_as_the_path_it_may_be(hub: Hub) -> None:
    with pytest.raises(UnknownModelError, match=r"no file or folder runs/best here, and hf://runs"):
        resolve("runs/best")
    with pytest.raises(WeightsError, match=r"cannot look up hf://runs/best: private or missing"):
        resolve("hf://runs/best")


def test_a_gated_repository_says_how_it_is_opened(hub: Hub, folder: Path) -> None:
    make_model(folder)
    upload(hub, folder)
    hub.repos[REPO].gated = True
    with pytest.raises(WeightsError, match=r"gated, needs a token; accept its terms on the Hub"):
        resolve(REPO)


def test_an_expired_token_is_named(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(folder)
    upload(hub, folder)
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(WeightsError, match=r"no access; set HF_TOKEN to a valid token with access"):
        resolve(REPO)


def test_a_branch_is_found_again_without_a_connection(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_model(folder)
    make_processor(folder)
    upload(hub, folder)
    found = resolve(f"{REPO}@main")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    assert resolve(f"{REPO}@main") == found
    assert "127.0.0.1:1 refuses connections, so the cached copy is used" in caplog.text


def test_a_missing_revision_is_named(hub: Hub, folder: Path) -> None:
    make_model(folder)
    upload(hub, folder)
    with pytest.raises(WeightsError, match=r"@nothing: 404, no such revision; check its name and"):
        resolve(f"{REPO}@nothing")


@pytest.mark.parametrize(
    "name",
    [
        "hf://a",
        "hf://a/b/c",
        "hf://../b",
        "hf://a/..",
        "hf://a/b@../c",
        "hf://a/b c",
        "hf://a/b@",
        "hf://a/b@c//d",
    ],
)
def test_a_name_that_is_not_a_repository_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="not a repository of the Hub"):
        hub_name(name)


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("https://huggingface.co/some/model/tree/main", "write hf://some/model"),
        ("HF://some/model", "write hf://some/model"),
        ("https://example.com/some/model", "write hf://org/repo"),
        ("file:///etc/passwd", "write hf://org/repo"),
    ],
)
def test_an_address_is_not_a_model(name: str, way: str) -> None:
    with pytest.raises(UsageError, match=f"is an address, not a model; {way}"):
        resolve(name)


def test_a_folder_of_this_folder_is_named_by_its_name_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert resolve("mine").card.labels == LABELS
    assert resolve("mine").card.source["address"] == "mine"
    with pytest.raises(InputError, match="name its folder, mine"):
        resolve("mine/config.json")
    with pytest.raises(WeightsError, match="name its folder, mine"):
        resolve("mine/model.safetensors")


def test_words_that_are_paths_are_not_repositories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/best").mkdir(parents=True)
    for name in ("runs/best", "runs/best.safetensors", "./a/b", "/a/b", "a/b/c", "~/a", "vivit-b"):
        assert hub_name(name) is None
    assert hub_name("org/name.v2@abc") == HubName("org/name.v2", "abc")


def test_a_registered_repository_keeps_its_entry_and_warns_of_other_pixels(
    hub: Hub, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from vtcli.weights.registry import load_registry
    from vtcli.weights.repository_model import compare_pixels

    repo = "google/vivit-b-16x2-kinetics400"
    entry = load_registry().find("vivit-b.k400-in21k-32f")
    assert lookup(repo) is entry
    assert lookup(f"hf://{repo}") is entry
    make_model(folder, image_size=224, num_frames=32)
    make_processor(folder, 224)
    upload(hub, folder, repo)
    with caplog.at_level(logging.WARNING):
        compare_pixels(entry, HubName(repo))
    (line,) = [record.getMessage() for record in caplog.records]
    assert "values -1 to 1, preprocessor_config.json of the repository with values -3 to 1" in line
    assert "--pipeline vivit-hf-default" in line


def test_a_repository_with_several_registered_checkpoints_asks_for_one() -> None:
    with pytest.raises(UnknownModelError, match="checkpoints; name one of them: uniformerv2"):
        lookup("hf://Andy1621/uniformerv2")


@pytest.mark.parametrize("prefixed", [False, True])
def test_a_network_without_a_classifier_is_for_training_only(folder: Path, prefixed: bool) -> None:
    model = make_model(folder, headless=True)
    make_processor(folder)
    if prefixed:
        tensors = {f"vivit.{name}": tensor for name, tensor in model.state_dict().items()}
        (folder / "model.safetensors").unlink()
        torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(LayoutError, match=r"has no classifier; train one: vt finetune -m"):
        resolve(folder)
    assert resolve(folder, needs_classifier=False).card.labels == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_hidden_layers": 3}, "depth 3, but the tensors have 2"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"hidden_size": 96}, "width 96, but the tensors have 48"),
        ({"num_frames": 32}, "16 positions do not fit a clip of 32 frames"),
        ({"image_size": 64}, "16 positions do not fit a clip of 8 frames of 64"),
        ({"tubelet_size": [4, 16, 16]}, "tubelet_size"),
        ({"tubelet_size": "2"}, "tubelet_size is '2'"),
        ({"num_channels": 1}, "num_channels 1, but the tensors have 3"),
        ({"num_attention_heads": 5}, "cannot be split into 5"),
        ({"num_attention_heads": -1}, "num_attention_heads is -1"),
        ({"hidden_act": "swish"}, "'swish'"),
        ({"qkv_bias": False}, "qkv_bias"),
        ({"problem_type": "regression"}, "predicts numbers"),
        ({"model_type": "videomae", "architectures": ["VideoMAE"]}, "is a VideoMAE"),
        ({"image_size": [32, 64]}, "square frames"),
        ({"image_size": 10**5}, "image_size is 100000"),
        ({"hidden_act": ["gelu"]}, "(hidden_act) is ['gelu']"),
        ({"qkv_bias": "false"}, "qkv_bias is 'false'"),
    ],
    ids=str,
)
def test_a_configuration_that_contradicts_the_weights_is_refused(
    folder: Path, changes: dict[str, Any], words: str
) -> None:
    make_model(folder)
    make_processor(folder)
    write_config(folder, **changes)
    with pytest.raises(LayoutError) as caught:
        resolve(folder)
    assert words in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id2label": {"0": "a", "1": "b"}}, "names 2 classes"),
        ({"id2label": {"0": "a", "2": "b", "3": "c"}}, "does not number its 3 classes"),
        ({"id2label": {"0": 1, "1": 2, "2": 3}}, "not a table of names"),
    ],
    ids=str,
)
def test_labels_that_do_not_fit_are_refused(
    folder: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    make_model(folder)
    make_processor(folder)
    write_config(folder, **changes)
    with pytest.raises(DataError, match=words) as caught:
        resolve(folder)
    assert "--labels" in str(caught.value)
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    convert(folder, tmp_path / "o.safetensors", labels=tmp_path / "names.txt")
    assert read_card(tmp_path / "o.safetensors").labels == ("a", "b", "c")


def test_the_command_that_gives_the_labels_of_a_repository_works_as_typed(
    hub: Hub, folder: Path
) -> None:
    make_model(folder)
    write_config(folder, id2label={"0": "a"})
    upload(hub, folder)
    with pytest.raises(DataError, match=f"vt convert hf://{REPO} --labels FILE"):
        resolve(REPO)


def test_labels_keep_the_joiners_and_spaces_of_their_script(folder: Path) -> None:
    names = ("می‌دود", "走る　人", "a b")
    make_model(folder, id2label=dict(enumerate(names)))
    make_processor(folder)
    assert resolve(folder).card.labels == names


def test_labels_are_known_from_either_table_and_a_contradiction_is_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_model(folder)
    make_processor(folder)
    write_config(folder, label2id={"walk": 0, "fall": 1, "sit": 2})
    assert resolve(folder).card.labels == ("fall", "walk", "sit")
    assert "id2label and label2id of config.json disagree" in caplog.text
    write_config(folder, id2label=None)
    assert resolve(folder).card.labels == ("walk", "fall", "sit")


def test_scores_of_classes_that_do_not_exclude_each_other_are_sigmoids(
    folder: Path, video: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_model(folder)
    make_processor(folder)
    write_config(folder, problem_type="multi_label_classification")
    with Predictor(str(folder), topk=3, device="cpu") as predictor:
        found = {p.label: p.score for p in next(predictor.predict([video])).predictions}
    logits = expected_logits(folder, video)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert [found[name] for name in LABELS] == pytest.approx(logits.sigmoid().tolist(), abs=1e-5)
    assert resolve(folder).card.pipeline.multi_label
    assert "softmax" not in caplog.text


def test_a_nested_processor_is_followed(folder: Path, video: Path) -> None:
    make_model(folder)
    make_processor(folder, **PROCESSORS["[-2,0]"])
    file = folder / "preprocessor_config.json"
    table = {"image_processor": json.loads(file.read_text()), "processor_class": "Processor"}
    (folder / "processor_config.json").write_text(json.dumps(table))
    file.unlink()
    same_logits(str(folder), folder, video)


def test_labels_that_nobody_named_are_unverified(folder: Path) -> None:
    make_model(folder, id2label={i: f"LABEL_{i}" for i in range(3)})
    make_processor(folder)
    assert resolve(folder).card.heads[0].confidence == "unverified"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"resample": 9}, "resample is 9"),
        ({"size": {"longest_edge": 256}}, "size is"),
        ({"size": {"shortest_edge": 10**9}}, "size"),
        ({"do_center_crop": False}, "does not crop"),
        ({"do_rescale": False}, "offset without do_rescale"),
        ({"image_std": [0, 0, 0]}, "divides by zero"),
        ({"image_mean": [1, 2]}, "not three numbers"),
        ({"do_resize": "yes"}, "not true or false"),
        ({"crop_size": {"height": 32, "width": 48}}, "square frames"),
        ({"size": {"shortest_edge": 16}}, "would be padded"),
        ({"rescale_factor": 1e-300}, "preprocessor_config.json gives no pixels that are possible"),
    ],
    ids=str,
)
def test_a_processor_that_cannot_be_followed_is_refused(
    folder: Path, changes: dict[str, Any], words: str
) -> None:
    make_model(folder)
    make_processor(folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(DataError) as caught:
        resolve(folder)
    assert words in str(caught.value)
    assert str(folder) in str(caught.value)


def test_gray_frames_have_one_mean(folder: Path) -> None:
    make_model(folder, num_channels=1)
    make_processor(folder, image_mean=[0.4, 0.5, 0.6])
    with pytest.raises(DataError, match="not one number for gray frames"):
        resolve(folder)


def test_a_folder_converts_its_ema_weights_or_says_that_it_has_none(
    folder: Path, tmp_path: Path
) -> None:
    tensors = make_model(folder).state_dict()
    with pytest.raises(UsageError, match="has no EMA weights"):
        convert(folder, tmp_path / "o.safetensors", ema=True)
    (folder / "model.safetensors").unlink()
    raw = {name: tensor * 0 for name, tensor in tensors.items()}
    torch.save({"model": raw, "model_ema": tensors}, folder / "pytorch_model.bin")
    convert(folder, tmp_path / "o.safetensors", ema=True)
    assert open_tensors(tmp_path / "o.safetensors")["head.weight"].any()


def test_a_wrapper_around_the_weights_of_a_repository_is_stripped(folder: Path) -> None:
    tensors = make_model(folder).state_dict()
    (folder / "model.safetensors").unlink()
    wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in tensors.items()}
    torch.save({"state_dict": wrapped}, folder / "pytorch_model.bin")
    assert resolve(folder).card.labels == LABELS


def test_a_repository_without_a_processor_says_which_pipeline_is_taken(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_model(folder)
    resolve(folder)
    assert "warning: it has no preprocessor_config.json: pixels are prepared as" in caplog.text


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/x.bin", "a/b.bin", "x.py"])
def test_a_shard_outside_the_repository_is_refused(folder: Path, name: str) -> None:
    make_model(folder)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"classifier.bias": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="not one beside it"):
        resolve(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    make_model(folder).save_pretrained(folder, max_shard_size="40kB")
    (folder / "model.safetensors").unlink()
    shard = sorted(folder.glob("model-*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(WeightsError, match=f"lacks {shard.name}, which model.safetensors.index"):
        resolve(folder)
