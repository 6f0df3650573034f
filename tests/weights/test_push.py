"""Push: the Hub receives the file itself, its config and a README that describes it.

The real client pushes to a server on localhost and downloads from it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.hub import Fault, Hub, point_client_at
from vtcli.errors import InputError, WeightsError
from vtcli.weights.download import fetch_hub_file
from vtcli.weights.model_card import Pushed, model_card
from vtcli.weights.push import push

# Caused by how the client uploads with its HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPO = "org/vivit-b"
CARD: dict[str, Any] = {
    "format": 2,
    "id": "vivit-b.k400-in21k-32f",
    "arch": "vivit",
    "model": "vivit-b",
    "config": {"depth": 2},
    "heads": [{"name": "action", "size": 2, "labels": ["a", "b"], "confidence": "verified"}],
    "dataset": "k400",
    "pipeline": {"frames": 32, "stride": 2},
    "views": "4x3",
    "source": {"address": "hf://google/x/model.safetensors", "sha256": "41df", "bytes": 356},
    "license": "Apache-2.0",
    "top1": 79.9,
    "metric_source": "paper, table 6",
    "pretrain": "ImageNet-21k",
}


@pytest.fixture
def hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    return hub


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A tiny converted checkpoint."""
    path = tmp_path / "converted.safetensors"
    tensors = {"head.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}
    save_file(tensors, path, metadata={"format": "pt", "vt": json.dumps(CARD)})
    return path


def test_a_pushed_file_is_downloaded_byte_for_byte(hub: Hub, file: Path) -> None:
    assert push(file, REPO) == f"{hub.url}/{REPO}"
    assert fetch_hub_file(REPO, None, ["model.safetensors"]).read_bytes() == file.read_bytes()


def test_a_push_is_one_commit_with_the_weights_as_a_large_file(hub: Hub, file: Path) -> None:
    push(file, REPO)
    assert len(hub.asked("POST", "/commit/")) == 1
    assert len(hub.asked("PUT", "/upload/")) == 1
    assert sorted(hub.repos[REPO].files) == ["README.md", "config.json", "model.safetensors"]


def test_the_config_is_the_card_of_the_file(hub: Hub, file: Path) -> None:
    push(file, REPO)
    assert json.loads(hub.repos[REPO].files["config.json"]) == CARD


def test_the_config_of_an_older_file_is_in_the_current_format(hub: Hub, file: Path) -> None:
    old = {**CARD, "format": 1, "pipeline": {**CARD["pipeline"], "score": "mean_prob"}}
    save_file({"b": np.ones(3)}, file, metadata={"vt": json.dumps(old)})
    push(file, REPO)
    config = json.loads(hub.repos[REPO].files["config.json"])
    assert config["format"] == 2
    assert config["pipeline"] == {**CARD["pipeline"], "view_fusion": "mean_prob"}


def test_the_readme_describes_the_model(hub: Hub, file: Path) -> None:
    from huggingface_hub import ModelCard

    push(file, REPO)
    text = hub.repos[REPO].files["README.md"].decode()
    assert ModelCard(text).data.to_dict() == {
        "license": "apache-2.0",
        "library_name": "vtcli",
        "pipeline_tag": "video-classification",
        "datasets": ["k400"],
        "tags": ["vivit"],
    }
    for line in (
        "# vivit-b.k400-in21k-32f",
        "vt predict clip.mp4 -m hf://org/vivit-b",
        "| top-1 (%) | 79.9 |",
        "| source | paper, table 6 |",
        "| frames | 32 |",
        "`action`: 2 classes, class order: verified",
        "| sha256 | 41df |",
        "Pretrained on ImageNet-21k.",
    ):
        assert line in text


def test_every_key_of_a_card_is_optional(hub: Hub) -> None:
    text = model_card({}, Pushed(REPO))
    assert "license: other" in text
    assert "## Use" in text
    for absent in ("## Accuracy", "## Pipeline", "## Labels", "## Origin", "None"):
        assert absent not in text


def test_a_second_push_replaces_the_first(hub: Hub, file: Path) -> None:
    push(file, REPO)
    save_file({"b": np.ones(3)}, file, metadata={"vt": json.dumps({**CARD, "top1": 80.0})})
    push(file, REPO)
    assert hub.repos[REPO].files["model.safetensors"] == file.read_bytes()
    assert b"80.0" in hub.repos[REPO].files["README.md"]


@pytest.mark.parametrize("private", [False, True])
def test_a_repository_is_private_only_if_asked(hub: Hub, file: Path, private: bool) -> None:
    push(file, REPO, private=private)
    assert hub.repos[REPO].private is private


def test_a_token_can_be_given(hub: Hub, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    push(file, REPO, token="hf_writer")
    assert REPO in hub.repos


def refused(file: Path, repo: str, *words: str) -> None:
    """A push that ends with exit code 5 and one sentence with all `words`."""
    with pytest.raises(WeightsError) as caught:
        push(file, repo)
    message = str(caught.value)
    assert caught.value.exit_code == 5
    assert "\n" not in message
    assert ". " not in message
    for word in (repo, *words):
        assert word in message


def test_the_error_for_a_missing_token_says_how_to_set_one(
    hub: Hub, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    refused(file, REPO, "no token", "set HF_TOKEN or run `hf auth login`")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("token", "reason"),
    [("hf_stranger", "does not accept the token"), ("hf_reader", "no write permission")],
)
@pytest.mark.parametrize("exists", [False, True])
def test_a_token_without_write_permission_is_refused(
    hub: Hub,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
    reason: str,
    exists: bool,
) -> None:
    if exists:
        hub.add_repo(REPO, {"README.md": b"upstream"})
    monkeypatch.setenv("HF_TOKEN", token)
    refused(file, REPO, reason, "HF_TOKEN")
    assert exists is (REPO in hub.repos)


def test_an_invalid_repository_name_is_refused(hub: Hub, file: Path) -> None:
    refused(file, "a/b/c", "write the repository as org/name")


def test_a_failed_upload_leaves_no_commit(hub: Hub, file: Path) -> None:
    hub.faults["upload"] = Fault(status=500)
    refused(file, REPO, "HTTP status 500", "run the command again")
    assert hub.repos[REPO].files == {}


def test_an_unreachable_hub_is_named(
    hub: Hub, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.url = "http://hub.invalid"
    point_client_at(hub, tmp_path, monkeypatch)
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    refused(file, REPO, "unknown host hub.invalid", "check the connection")


def test_a_file_that_was_not_converted_is_refused(hub: Hub, tmp_path: Path) -> None:
    path = tmp_path / "upstream.safetensors"
    save_file({"a": np.zeros(2)}, path)
    with pytest.raises(WeightsError, match=r"upstream\.safetensors is not a converted checkpoint"):
        push(path, REPO)
    with pytest.raises(InputError, match="no file"):
        push(tmp_path / "gone.safetensors", REPO)
    assert hub.requests == []
