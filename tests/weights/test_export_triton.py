"""A Triton model repository is what Triton's own message describes, and has labels and rules."""

from __future__ import annotations

import json
from pathlib import Path

import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from vtcli.cli import run
from vtcli.errors import EXIT_OK, EXIT_USAGE
from vtcli.labels.heads import HeadSpec
from vtcli.weights.checkpoint import ModelCard
from vtcli.weights.export_triton import config_text
from vtcli.weights.load import load_model

NAME = "vivit-nano.motion8"


def parsed(text: str) -> model_config_pb2.ModelConfig:
    """The message; raises for a field that Triton does not have."""
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's folder in a repository."""
    repository = tmp_path_factory.mktemp("triton")
    assert run(["convert", NAME, "--to", "triton", "-o", str(repository), "--verify"]) == EXIT_OK
    return repository / NAME


@pytest.mark.slow
def test_the_configuration_fits_the_graph(folder: Path) -> None:
    config = parsed((folder / "config.pbtxt").read_text())
    graph = onnxruntime.InferenceSession(folder / "1" / "model.onnx")
    assert (config.name, config.backend) == (folder.name, "onnxruntime")
    assert config.max_batch_size > 1
    assert config.HasField("dynamic_batching")
    for sides, tensors in (
        (config.input, graph.get_inputs()),
        (config.output, graph.get_outputs()),
    ):
        for stated, actual in zip(sides, tensors, strict=True):
            assert stated.name == actual.name
            assert [*stated.dims] == actual.shape[1:]
            assert stated.data_type == model_config_pb2.TYPE_FP32
            assert isinstance(actual.shape[0], str)  # any batch size


@pytest.mark.slow
def test_labels_and_preprocessing_come_along(folder: Path) -> None:
    card = load_model(NAME).card
    config = parsed((folder / "config.pbtxt").read_text())
    names = (folder / config.output[0].label_filename).read_text().splitlines()
    assert tuple(names) == card.labels
    assert ModelCard.from_json(config.parameters["vt"].string_value) == card
    page = (folder / "README.md").read_text()
    pipeline = card.pipeline
    for value in (pipeline.sampling, pipeline.resize, str(list(pipeline.mean)), "[batch, 3,"):
        assert value in page


def test_each_head_has_an_output_and_labels() -> None:
    card = load_model(NAME).card
    heads = (HeadSpec("noun", 2, labels=('"quoted"', "ünï")), HeadSpec("verb", 3))
    card = card.__class__(**{**card.__dict__, "heads": heads})
    config = parsed(config_text(card, "two"))
    outputs = [(o.name, [*o.dims], o.label_filename) for o in config.output]
    assert outputs == [
        ("logits_noun", [2], "labels_noun.txt"),
        ("logits_verb", [3], ""),
    ]
    labels = json.loads(config.parameters["vt"].string_value)["heads"][0]["labels"]
    assert labels == ['"quoted"', "ünï"]


@pytest.mark.slow
def test_a_model_is_not_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["convert", NAME, "--to", "triton", "-o", str(folder.parent)]
    assert run(words) == EXIT_USAGE
    assert f"remove {folder}" in capsys.readouterr().err
