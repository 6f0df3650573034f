"""`vt eval`, `vt eval rescore` and `vt eval compare` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.data import layouts
from tests.evaluation.harness import class_folders, model_file, vt_here
from vtcli.cli import run
from vtcli.data.open import open_dataset
from vtcli.evaluation.aggregate import load_run_scores
from vtcli.evaluation.run_directory import RunDirectory
from vtcli.labels import load_labels


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A dataset, two models and a run of each."""
    folder = tmp_path_factory.mktemp("made")
    videos = class_folders(folder / "videos", 2)
    paths = {"videos": videos}
    for name, seed in (("a", 0), ("b", 1)):
        paths[f"model_{name}"] = model_file(folder / f"{name}.safetensors", views=(4, 3), seed=seed)
        paths[name] = folder / name
        done = vt_here("eval", "--dataset", videos, "-m", paths[f"model_{name}"], "-o", paths[name])
        assert done.returncode == 0, done.stderr
        paths[f"out_{name}"] = folder / f"{name}.txt"
        paths[f"out_{name}"].write_text(f"{done.stdout}\0{done.stderr}")
    return paths


def test_only_the_report_is_on_stdout(made: dict[str, Path]) -> None:
    out, err = made["out_a"].read_text().split("\0")
    assert "16 expected, 16 read, 0 failed" in out
    assert "class folders" in err
    assert "4 clips x 3 crops of 8 frames" in err
    assert f"report: {made['a'] / 'report.html'}" in err


def test_json_is_the_summary(made: dict[str, Path]) -> None:
    done = vt_here(
        *("eval", "--dataset", made["videos"], "-m", made["model_a"], "-o", made["a"]),
        *("--format", "json"),
    )
    shown, kept = json.loads(done.stdout), json.loads((made["a"] / "summary.json").read_text())
    assert shown["heads"] == kept["heads"]
    assert shown["read"] == 16


def test_a_run_directory_holds_all_documented_files(made: dict[str, Path]) -> None:
    names = {path.name for path in made["a"].iterdir()}
    assert names >= {
        *("run.json", "samples.jsonl", "scores", "summary.json"),
        *("predictions.csv", "failures.csv", "report.html"),
    }
    assert "<html" in (made["a"] / "report.html").read_text()
    assert (made["a"] / "predictions.csv").read_text().count("\n") == 17


@pytest.mark.parametrize("average", ["prob", "logit"])
@pytest.mark.parametrize("views", [None, "1x1", "2x3"])
def test_rescoring_averages_the_stored_views(
    made: dict[str, Path],
    views: str | None,
    average: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["eval", "rescore", str(made["a"]), "--average", average, "--format", "json"]
    assert run([*words, *(["--views", views] if views else [])]) == 0
    shown = json.loads(capsys.readouterr().out)
    directory = RunDirectory(made["a"])
    clips = {None: (0, 1, 2, 3), "1x1": (2,), "2x3": (1, 3)}[views]
    crops = (1,) if views == "1x1" else (0, 1, 2)
    numbers = [3 * clip + crop for clip in clips for crop in crops]
    right = 0
    for sample in directory.samples():
        logits = directory.scores().logits(sample.key, numbers, ["action"])["action"]
        values = logits.astype(np.float64)
        if average == "prob":
            values = np.exp(values - values.max(1, keepdims=True))
            values /= values.sum(1, keepdims=True)
        right += int(values.mean(0).argmax() in sample.target[0])
    assert shown["heads"][0]["top1_read"]["value"] == pytest.approx(right / 16)
    assert "stored views" in shown["protocol"]
    assert "not of a published protocol" in shown["differs"]


def test_more_views_than_are_stored_are_refused(
    made: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", "rescore", str(made["a"]), "--views", "5x3"]) == 2
    assert "holds 4x3 views" in capsys.readouterr().err


def test_two_runs_are_compared_sample_by_sample(
    made: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", "compare", str(made["a"]), str(made["b"]), "--format", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    a, b = (load_run_scores(RunDirectory(made[name])).correct() for name in "ab")
    assert shown["n"] == 16
    assert shown["correct_only_a"] == sum(a[i] and not b[i] for i in a)
    assert shown["correct_only_b"] == sum(b[i] and not a[i] for i in a)
    assert run(["eval", "compare", str(made["a"]), str(made["a"])]) == 0
    assert "p = 1.0" in capsys.readouterr().out


def test_an_unfinished_run_is_not_scored(
    made: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    shutil.copytree(made["a"], tmp_path / "run")
    file = next((tmp_path / "run" / "scores").iterdir())
    file.write_bytes(file.read_bytes()[:-100])  # the last line is cut off
    assert run(["eval", "rescore", str(tmp_path / "run")]) == 7
    assert "1 of 16 samples are not scored" in capsys.readouterr().err


def test_a_run_that_was_stopped_before_it_began_is_reported(
    made: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").write_bytes((made["a"] / "run.json").read_bytes())
    assert run(["eval", "rescore", str(tmp_path)]) == 7
    assert "was interrupted before anything was scored" in capsys.readouterr().err


def test_failed_videos_are_tried_again_on_request(tmp_path: Path) -> None:
    videos = class_folders(tmp_path / "videos", 1)
    next(videos.rglob("*.mp4")).write_text("not a video")
    model = model_file(tmp_path / "m.safetensors", views=(1, 1))
    words = ("eval", "--dataset", videos, "-m", model, "-o", tmp_path / "run")
    assert vt_here(*words).returncode == 3
    assert vt_here(*words).returncode == 3
    assert len(list((tmp_path / "run" / "scores").iterdir())) == 1
    assert vt_here(*words, "--retry-failures").returncode == 3
    assert len(list((tmp_path / "run" / "scores").iterdir())) == 2


@pytest.mark.parametrize("words", [["rescore"], ["compare", "."]])
def test_a_folder_without_a_run_is_named(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(tmp_path)] * (1 if words[0] == "rescore" else 2)
    assert run(["eval", words[0], *folders]) == 7
    assert "does not contain an evaluation" in capsys.readouterr().err


def test_usage_errors_are_sentences(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["eval"]) == 2
    assert "needs --dataset" in capsys.readouterr().err
    assert run(["eval", "--dataset", "ssv3"]) == 2
    assert "ssv2" in capsys.readouterr().err
    assert run(["eval", "--dataset", str(tmp_path / "gone")]) in (2, 4)
    capsys.readouterr()
    assert run(["eval", "--dataset", ""]) == 2
    assert "is empty" in capsys.readouterr().err
    assert run(["eval", "--dataset", "n" * 300]) == 4
    assert "cannot be opened (File name too long)" in capsys.readouterr().err
    (tmp_path / "c").mkdir()
    layouts.video(tmp_path / "c" / "abseiling" / "a.mp4")
    assert run(["eval", "--dataset", str(tmp_path / "c")]) == 2
    assert "--model" in capsys.readouterr().err
    assert run(["eval", "--dataset", str(tmp_path / "c"), "-m", "nosuch"]) == 2
    assert run(["eval", "--dataset", str(tmp_path / "c"), "--split", "all"]) == 2


def test_a_known_dataset_is_found_below_vt_data(tmp_path: Path) -> None:
    layouts.ssv2(tmp_path / "data" / "ssv2")
    model = model_file(tmp_path / "m.safetensors", {"action": load_labels("ssv2")}, "ssv2")
    run_folder = tmp_path / "run"
    words = ("eval", "--dataset", "ssv2", "-m", model, "-o", run_folder)
    done = vt_here(*words, VT_DATA=str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    assert "3 expected, 3 read, 0 failed" in done.stdout
    without = vt_here(*words, VT_DATA=str(tmp_path / "nothing"))
    assert without.returncode in (4, 7)
    assert without.stderr.count("vt: error:") == 1


def test_all_splits_of_a_dataset_and_their_mean(tmp_path: Path) -> None:
    layouts.ucf101(tmp_path / "ucf")
    model = model_file(
        tmp_path / "m.safetensors", {"action": load_labels("ucf101")}, "ucf101", (1, 1)
    )
    done = vt_here(
        *("eval", "--dataset", "ucf101", "--data-root", tmp_path / "ucf", "-m", model),
        *("--split", "all", "-o", tmp_path / "run"),
    )
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"split-1", "split-2", "split-3"}
    values = [
        json.loads((tmp_path / "run" / f"split-{n}" / "summary.json").read_text())["heads"][0][
            "top1_read"
        ]["value"]
        for n in (1, 2, 3)
    ]
    assert f"{100 * sum(values) / 3:.1f}" in done.stdout
    again = vt_here(
        *("eval", "--dataset", "ucf101", "--data-root", tmp_path / "ucf", "-m", model),
        *("--split", "all", "-o", tmp_path / "run", "--format", "json"),
    )
    shown = json.loads(again.stdout)
    assert shown["mean"]["read"]["values"] == values
    assert [shown["splits"][n]["split"] for n in "123"] == ["1", "2", "3"]


def test_a_dataset_is_named_after_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = class_folders(tmp_path / "my videos", 1)
    monkeypatch.chdir(folder / "abseiling")
    assert {open_dataset(name).name for name in ("..", "../.", str(folder))} == {"my videos"}
