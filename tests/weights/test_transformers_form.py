"""A ViViT pushed in transformers' form: that library reads it strictly, and we read our own card.

The oracle is transformers, on the files that the Hub on localhost has received.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
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
from vtcli.cli import run
from vtcli.errors import UsageError
from vtcli.labels.heads import HeadSpec
from vtcli.models import get_architecture
from vtcli.models.vivit.configs import ViViTConfig
from vtcli.video.pipeline import MULTI_LABEL
from vtcli.weights import repository_model
from vtcli.weights.checkpoint import CARD_KEY, ModelCard, open_tensors, write_checkpoint
from vtcli.weights.load import load_model
from vtcli.weights.model_card import Pushed, model_card
from vtcli.weights.push import push
from vtcli.weights.registry import load_registry
from vtcli.weights.resolve import resolve

# Caused by how the client uploads with its HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPO = "someone/vivit-falls"
CONFIG = ViViTConfig(
    image_size=32,
    num_frames=8,
    tubelet_size=(2, 16, 16),
    width=48,
    depth=2,
    num_heads=3,
    mlp_ratio=2.0,
    num_classes=3,
    drop_path=0.1,
)


@pytest.fixture
def hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    return hub


def our_file(path: Path, pipeline: str = "vivit-hf", **config: Any) -> ModelCard:
    """A tiny ViViT of ours with three labels and the pixels of a named pipeline."""
    torch.manual_seed(0)
    network = replace(CONFIG, **config)
    model = get_architecture("vivit").build(network)
    tensors = {name: torch.randn_like(t) * 0.1 for name, t in model.state_dict().items()}
    pixels = load_registry().pipelines[pipeline]
    pixels = replace(pixels, frames=8, short_side=40, crop_size=32)
    card = ModelCard(
        id="vivit-own.falls",
        arch="vivit",
        model="vivit-own",
        config=asdict(network),
        heads=(HeadSpec("action", 3, LABELS, "given: labels.txt"),),
        pipeline=pixels,
        dataset="falls",
        source={"address": "runs/best.safetensors", "sha256": "41df"},
        top1=91.5,
        license="apache-2.0",
    )
    write_checkpoint(path, tensors, {CARD_KEY: card.to_json()})
    return card


def received(hub: Hub, folder: Path) -> Path:
    """The folder with the files of the pushed repository."""
    folder.mkdir()
    for name, content in hub.repos[REPO].files.items():
        (folder / name).write_bytes(content)
    return folder


def loaded_strictly(folder: Path) -> Any:
    from transformers import VivitForVideoClassification

    model, info = VivitForVideoClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


@pytest.mark.parametrize(
    "config",
    [{}, {"num_heads": 6, "activation": "gelu"}, {"qkv_bias": False, "num_frames": 9}],
    ids=str,
)
def test_transformers_loads_a_pushed_vivit_strictly_with_the_same_logits(
    hub: Hub, tmp_path: Path, config: dict[str, Any]
) -> None:
    our_file(tmp_path / "own.safetensors", **config)
    push(tmp_path / "own.safetensors", REPO, form="transformers")
    model = loaded_strictly(received(hub, tmp_path / "theirs"))
    assert model.config.id2label == dict(enumerate(LABELS))
    ours = load_model(tmp_path / "own.safetensors")
    frames = config.get("num_frames", 8)
    clip = torch.randn(1, 3, frames, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(clip.transpose(1, 2)).logits
        assert (ours(clip) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("pipeline", ["vivit-hf", "vivit-hf-default"])
def test_a_video_has_the_same_logits_through_transformers_own_processor(
    hub: Hub, tmp_path: Path, video: Path, pipeline: str
) -> None:
    our_file(tmp_path / "own.safetensors", pipeline)
    push(tmp_path / "own.safetensors", REPO, form="transformers")
    expected = expected_logits(received(hub, tmp_path / "theirs"), video)
    for name in (str(tmp_path / "own.safetensors"), REPO):
        ours, labels = our_logits(name, video)
        assert labels == LABELS
        assert (ours - expected).abs().max() < 1e-4


@pytest.mark.parametrize("processor", PROCESSORS)
def test_a_repository_of_transformers_comes_back_as_it_was(
    hub: Hub, tmp_path: Path, video: Path, processor: str
) -> None:
    make_model(tmp_path / "theirs")
    make_processor(tmp_path / "theirs", **PROCESSORS[processor])
    push(resolve(tmp_path / "theirs").path, REPO, form="transformers")
    expected = expected_logits(tmp_path / "theirs", video)
    assert (expected_logits(received(hub, tmp_path / "ours"), video) - expected).abs().max() < 1e-4
    assert (our_logits(REPO, video)[0] - expected).abs().max() < 1e-4


def test_our_own_card_is_read_back(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    card = our_file(tmp_path / "own.safetensors")
    push(tmp_path / "own.safetensors", REPO, form="transformers")
    assert sorted(hub.repos[REPO].files) == [
        *("README.md", "config.json", "model.safetensors", "preprocessor_config.json", "vt.json")
    ]
    found = resolve(REPO)
    assert found.card == ModelCard.from_json(card.to_json())
    ours, theirs = load_model(tmp_path / "own.safetensors"), load_model(found.path)
    state = theirs.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in ours.state_dict().items())
    assert caplog.text == ""


def test_classes_that_do_not_exclude_each_other_stay_so(hub: Hub, tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    card = our_file(path)
    many = replace(card, pipeline=replace(card.pipeline, view_fusion=MULTI_LABEL))
    write_checkpoint(path, open_tensors(path), {CARD_KEY: many.to_json()})
    push(path, REPO, form="transformers")
    folder = received(hub, tmp_path / "received")
    (folder / "vt.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert resolve(folder).card.pipeline.multi_label


@pytest.mark.parametrize("change", ["weights", "labels", "card", "network"])
def test_a_card_of_another_model_is_named_and_not_used(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    our_file(tmp_path / "own.safetensors")
    push(tmp_path / "own.safetensors", REPO, form="transformers")
    files = hub.repos[REPO].files
    reason = "it contradicts config.json"
    config, own = json.loads(files["config.json"]), json.loads(files["vt.json"])
    if change == "weights":
        make_model(tmp_path / "new")
        files["model.safetensors"] = (tmp_path / "new/model.safetensors").read_bytes()
        reason = "it is of other weights"
    elif change == "labels":
        config["id2label"] = {"0": "x", "1": "y", "2": "z"}
    elif change == "card":
        own["card"]["config"]["depth"] = 10**9
        reason = "its depth is 1000000000"
    else:
        own["card"]["config"]["num_heads"] = 6
    files["config.json"], files["vt.json"] = (json.dumps(t).encode() for t in (config, own))
    repository_model._say.cache_clear()  # a sentence is logged once per process
    card = resolve(REPO).card
    assert card.top1 is None
    assert card.labels == tuple(config["id2label"].values())
    assert f"vt.json is not used: {reason}" in caplog.text


@pytest.mark.parametrize("text", ["null", "[", "[" * 100_000, "{}x"])
def test_a_card_that_cannot_be_read_is_named_and_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    make_model(tmp_path / "model")
    (tmp_path / "model/vt.json").write_text(text)
    assert resolve(tmp_path / "model").card.labels == LABELS
    assert "warning: vt.json of" in caplog.text


def test_a_long_list_of_labels_is_folded_and_markup_in_labels_is_text() -> None:
    labels = ["a_b*c <i>", *(f"class {i}" for i in range(1, 30))]
    text = model_card({"heads": [{"name": "action", "size": 30, "labels": labels}]}, Pushed(REPO))
    before, _, folded = text.partition("<details><summary>30 labels</summary>")
    assert "class 29" not in before
    assert "0. a\\_b\\*c \\<i\\>\n" in folded
    assert "29. class 29\n\n</details>" in folded


def test_the_readme_names_labels_pipeline_digest_license_and_use(hub: Hub, tmp_path: Path) -> None:
    import hashlib

    from huggingface_hub import ModelCard as HubCard

    our_file(tmp_path / "own.safetensors")
    push(tmp_path / "own.safetensors", REPO, form="transformers")
    text = hub.repos[REPO].files["README.md"].decode()
    digest = hashlib.sha256(hub.repos[REPO].files["model.safetensors"]).hexdigest()
    data = HubCard(text).data
    assert (data.library_name, data.license) == ("transformers", "apache-2.0")
    for line in (
        *(f"{index}. {label}" for index, label in enumerate(LABELS)),
        f"| model.safetensors | sha256 {digest} |",
        f"vt predict clip.mp4 -m hf://{REPO}",
        f'VivitForVideoClassification.from_pretrained("{REPO}")',
        "| sampling | uniform_linspace |",
        "| weights | apache-2.0 |",
        "prepares the same pixels",
    ):
        assert line in text
    assert "<details>" not in text


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"attention": "factorized_dot_product", "class_token": False}, "joint attention"),
        ({"representation_size": 8}, "tanh layer"),
    ],
    ids=str,
)
def test_a_model_that_transformers_does_not_have_is_refused_before_any_upload(
    hub: Hub, tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    our_file(tmp_path / "own.safetensors", **config)
    with pytest.raises(UsageError, match=rf"{words}.*leave --form out"):
        push(tmp_path / "own.safetensors", REPO, form="transformers")
    assert hub.requests == []


def test_the_command_names_the_forms_and_what_has_none(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, sentence in (
        (("videoswin-nano", REPO, "--form", "keras"), "--form is vt or transformers, not 'keras'"),
        (("videoswin-nano", REPO, "--form", "transformers"), "transformers has no Video Swin"),
    ):
        assert run(["models", "push", *words]) == 2
        assert sentence in capsys.readouterr().err
    assert hub.requests == []
