"""`--views auto`: views stop once the first class is settled, whatever happens in other videos."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from tests.cli.bulk_runs import rows_of
from tests.evaluation.harness import class_folders, vt_here
from vtcli.errors import UsageError
from vtcli.inference.adaptive import StopRule
from vtcli.inference.embedding import Embedder
from vtcli.inference.predictor import Predictor
from vtcli.inference.results import Failure, VideoPrediction
from vtcli.weights.checkpoint import CARD_KEY, open_tensors, read_card, write_checkpoint
from vtcli.weights.resolve import resolve

MODEL = "uniformerv2-nano"
SPREAD = (0.3, 0.2, 0.1)


def calibrated(path: Path, threshold: float) -> Path:
    """The nano model with a rule for 4x1 views."""
    source = resolve(MODEL).path
    entry = {"views": "4x1", "samples": 300, "threshold": threshold, "spread": {"action": SPREAD}}
    entry |= {"mean_views": 2.0, "agreement": 1.0, "risk": 0.01, "delta": 0.05}
    card = replace(read_card(source), adaptive_views=entry)
    write_checkpoint(path, open_tensors(source), {CARD_KEY: card.to_json()})
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return calibrated(tmp_path_factory.mktemp("model") / "auto.safetensors", 1.0)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Nine videos; the fourth is damaged."""
    folder = tmp_path_factory.mktemp("videos")
    paths = [str(tiny.video(folder / f"{n}.mp4", 20 + 7 * n, seed=n)) for n in range(9)]
    Path(paths[3]).write_bytes(b"no video")
    return paths


def logits(outcome: VideoPrediction | Failure) -> torch.Tensor:
    assert isinstance(outcome, VideoPrediction), outcome.error
    return outcome.view_logits["action"]


def needed(logits_VK: torch.Tensor, threshold: float = 1.0) -> int:
    """The number of views after which the rule stops, from its definition."""
    p_VK = logits_VK.double().softmax(1)
    for v in range(1, len(p_VK)):
        first, second = p_VK[:v].mean(0).sort(descending=True).values[:2]
        if first - second >= threshold * SPREAD[v - 1]:
            return v
    return len(p_VK)


def test_views_stop_where_the_rule_says(model: Path, videos: list[str]) -> None:
    with Predictor(model, views="auto", batch_size=2, precision="fp32") as auto:
        stopped = list(auto.predict(videos))
    with Predictor(model, views="4x1", batch_size=4, precision="fp32") as whole:
        full = list(whole.predict(videos))
    counts = []
    for few, every in zip(stopped, full, strict=True):
        assert few.path == every.path
        assert few.failed == every.failed
        if few.failed:
            continue
        counts.append(needed(logits(every)))
        torch.testing.assert_close(logits(few), logits(every)[: counts[-1]], atol=1e-5, rtol=0)
        assert len(few.to_dict()["views"]) == counts[-1]
    assert len(set(counts)) > 1, "the videos need different numbers of views"


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_a_score_does_not_depend_on_which_videos_are_wanted(
    model: Path, videos: list[str], batch_size: int
) -> None:
    with Predictor(model, views="auto", precision="fp32") as predictor:
        everything = dict(predictor.predict_part(videos, range(9), batch_size))
        assert list(everything) == list(range(9))
        for wanted in ({0}, {1, 6}, {2, 3, 5, 8}):
            some = dict(predictor.predict_part(videos, wanted, batch_size))
            assert set(some) == wanted
            for number in wanted - {3}:
                assert torch.equal(logits(some[number]), logits(everything[number]))


def test_progress_counts_every_view_of_the_protocol(model: Path, videos: list[str]) -> None:
    seen: list[tuple[int, int]] = []
    with Predictor(model, views="auto", on_view=lambda _, *done: seen.append(done)) as predictor:
        list(predictor.predict(videos))
    assert seen[-1] == (36, 36)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_frames_in_memory_stop_as_well(model: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (40, 48, 48, 3), np.uint8)
    full = Predictor(model, views="4x1", precision="fp32").predict_frames(frames, 15)
    few = Predictor(model, views="auto", precision="fp32").predict_frames(frames, 15)
    assert len(few.views) == len(logits(few)) == needed(logits(full))


def test_several_heads_must_all_be_settled() -> None:
    rule = StopRule("2x1", 1.0, {"verb": (0.5,), "noun": (0.5,)}, "mean_prob")
    sure, unsure = torch.tensor([9.0, 0.0]), torch.tensor([0.1, 0.0])
    assert rule.stops([{"verb": sure, "noun": sure}])
    assert not rule.stops([{"verb": sure, "noun": unsure}])
    assert rule.stops([{"verb": sure, "noun": unsure}] * 2)


def test_a_bulk_run_states_the_rule_and_the_views_of_each_video(
    model: Path, videos: list[str], tmp_path: Path
) -> None:
    words = ["predict", *videos, "-m", model, "--views", "auto", "-b", "2", "-j", "0"]
    done = vt_here(*words, "-o", f"{tmp_path}/run/", "--format", "jsonl")
    assert done.returncode == 3, done.stderr
    settings = json.loads((tmp_path / "run/_vt/run.json").read_text())
    assert settings["protocol"] == "at most 4x1 views, 8 frames, mean_prob, until 1 spread"
    views = {row["path"]: row.get("views") for row in rows_of(tmp_path / "run")}
    with Predictor(model, views="auto", batch_size=2) as predictor:
        for outcome in predictor.predict(videos):
            assert views[outcome.path] == (None if outcome.failed else len(outcome.views))
    other = vt_here("predict", "-m", model, "--views", "4x1", "-o", f"{tmp_path}/run/")
    assert other.returncode == 7
    assert "until 1 spread" in other.stderr


def test_the_table_ends_with_the_views_that_were_used(model: Path, videos: list[str]) -> None:
    done = vt_here("predict", videos[0], "-m", model, "--views", "auto", "-j", "0")
    assert done.returncode == 0, done.stderr
    assert "of 4 views per video" in done.stdout


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["-m", MODEL], "vt eval calibrate RUN --views -o calibrated.safetensors"),
        (["-m", "{model}", "--abstain", "0.1"], "--abstain does not go with --views auto"),
        (["-m", "{model}", "--pipeline", "vivit-kinetics"], "--pipeline does not go with"),
        (["-m", "{model}", "--window", "1s"], "leave out --views"),
    ],
)
def test_what_does_not_go_together_is_said(
    model: Path, videos: list[str], words: list[str], part: str
) -> None:
    given = [str(model) if word == "{model}" else word for word in words]
    done = vt_here("predict", videos[0], "--views", "auto", *given)
    assert done.returncode == 2
    assert part in done.stderr


def test_jobs_without_a_first_class_take_a_number_of_views(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="an embedding takes a fixed number of views"):
        Embedder(Predictor(model, views="auto"))
    videos = class_folders(tmp_path, per_class=1, classes=read_card(model).labels)
    done = vt_here("eval", "--dataset", videos, "-m", model, "--views", "auto")
    assert done.returncode == 2
    assert "--views auto is for vt predict" in done.stderr
