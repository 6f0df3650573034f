"""Embeddings are the features of the network, in files that NumPy, pandas and pyarrow open."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas
import pyarrow.parquet
import pytest
import torch

import vtcli
from tests import tiny
from tests.evaluation.harness import model_file, vt_here
from vtcli.errors import DataError, InputError, UsageError
from vtcli.inference.embedding import Embedder, EmbeddingRows, EmbedSettings
from vtcli.inference.embeddings_file import read_embeddings
from vtcli.inference.inputs import describe
from vtcli.runtime.files import file_sha256

COLUMNS = ["id", "path", "start", "end", "model_fingerprint", "embedding"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos and a file that is not one, and a model."""
    folder = tmp_path_factory.mktemp("embed")
    model_file(folder / "tiny.safetensors")
    for number in range(3):
        tiny.video(folder / f"videos_{number}.mp4", 20 + number, (48, 40), number)
    (folder / "videos_broken.mp4").write_bytes(b"junk")
    return folder


def embed(folder: Path, output: Path | str, *words: str | Path) -> tuple[int, str]:
    sources = sorted(folder.glob("videos_*"))
    done = vt_here(
        *("embed", *sources, "-m", folder / "tiny.safetensors", "-o", f"{output}"),
        *("--precision", "fp32", "-j", "0", *words),
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def features_of(folder: Path) -> np.ndarray:
    with vtcli.Predictor(folder / "tiny.safetensors", precision="fp32", workers=0) as predictor:
        rows = [predictor.embed(path) for path in sorted(folder.glob("videos_[0-9].mp4"))]
    return torch.cat(rows).numpy()


def test_the_features_of_a_predictor_are_those_of_its_network(folder: Path) -> None:
    net = vtcli.load_model(folder / "tiny.safetensors")
    frames = torch.randn(1, 3, 8, 32, 32)
    with torch.inference_mode():
        width = net.features(frames).shape[1]  # type: ignore[operator]
    assert features_of(folder).shape == (3, width)


@pytest.mark.parametrize("extension", ["parquet", "npz"])
def test_a_file_has_the_features_of_every_video(
    folder: Path, tmp_path: Path, extension: str
) -> None:
    code, err = embed(folder, tmp_path / f"e.{extension}")
    assert code == 3
    assert "videos_broken.mp4: " in err
    assert "3 embeddings of 64 features; 1 video could not be read" in err
    found = read_embeddings(tmp_path / f"e.{extension}")
    assert [Path(path).name for path in found.paths] == [f"videos_{n}.mp4" for n in range(3)]
    assert found.ids == found.paths
    assert found.fingerprint == file_sha256(folder / "tiny.safetensors")
    assert found.starts.tolist() == [0, 0, 0]
    assert found.ends == pytest.approx([20 / 25, 21 / 25, 22 / 25])
    assert np.allclose(found.vectors, features_of(folder), atol=1e-5)
    assert found.vectors.dtype == np.float32
    assert found.settings["views"] == "1x1"
    assert found.settings["kind"] == "embeddings"


def test_parquet_is_opened_by_pandas_and_pyarrow(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    embed(folder, path, "--dtype", "fp16")
    frame = pandas.read_parquet(path)
    assert list(frame) == COLUMNS
    assert np.stack(frame["embedding"].tolist()).dtype == np.float16
    table = pyarrow.parquet.read_table(path)
    assert str(table.schema.field("embedding").type) == "list<element: halffloat>"
    values = np.array(table["embedding"].to_pylist(), np.float32)
    assert np.allclose(values, features_of(folder), rtol=2e-3, atol=2e-3)
    assert json.loads(table.schema.metadata[b"settings"])["dtype"] == "fp16"
    assert read_embeddings(path).vectors.dtype == np.float16


def test_npz_opens_without_pickle(folder: Path, tmp_path: Path) -> None:
    embed(folder, tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz", allow_pickle=False) as file:
        assert sorted(file.files) == sorted([*COLUMNS, "settings"])
        assert file["embedding"].shape == (3, 64)


def test_several_views_are_averaged(folder: Path, tmp_path: Path) -> None:
    embed(folder, tmp_path / "e.npz", "--views", "2x1")
    with vtcli.Predictor(
        folder / "tiny.safetensors", views="2x1", precision="fp32", workers=0
    ) as predictor:
        expected = predictor.embed(folder / "videos_1.mp4").mean(0)
    assert np.allclose(read_embeddings(tmp_path / "e.npz").vectors[1], expected, atol=1e-5)


def test_windows_have_an_embedding_each_and_a_folder_has_the_same(
    folder: Path, tmp_path: Path
) -> None:
    words = ["--window", "400ms", "--stride", "200ms"]
    embed(folder, tmp_path / "e.npz", *words)
    in_file = read_embeddings(tmp_path / "e.npz")
    first = [row for row, path in enumerate(in_file.paths) if path == in_file.paths[0]]
    assert [in_file.starts[row] for row in first] == pytest.approx([0, 0.2, 0.4])
    assert in_file.ids[0].endswith("videos_0.mp4#t=0,0.4")
    code, err = embed(folder, tmp_path / "run", *words)
    assert code == 2
    assert "a slash at its end" in err
    code, err = embed(folder, f"{tmp_path}/run/", *words, "--part-size", "2", "--format", "jsonl")
    assert code == 3
    assert "4 of 4 videos done, 1 of them failed; 2 of 2 parts complete" in err
    in_run = read_embeddings(tmp_path / "run")
    assert in_run.ids == in_file.ids
    assert np.allclose(in_run.vectors, in_file.vectors, atol=1e-5)
    _, err = embed(folder, tmp_path / "run", *words)
    assert "complete, nothing to do" in err
    code, err = embed(folder, tmp_path / "run", "--window", "500ms")
    assert code == 7
    assert "holds a run with window 0.4, not 0.5" in err


def test_what_a_killed_run_still_has_to_do_gives_the_same_embeddings(folder: Path) -> None:
    inputs = [describe(str(path)) for path in sorted(folder.glob("videos_*"))]
    with vtcli.Predictor(folder / "tiny.safetensors", precision="fp32", workers=0) as predictor:
        embedder = Embedder(predictor, EmbedSettings())
        rows = EmbeddingRows(embedder, embedder.file_settings(3, "jsonl"))
        whole = dict(rows.rows(inputs, {0, 1, 2, 3}))
        rest = dict(rows.rows(inputs, {1, 3}))
    assert rest == {place: whole[place] for place in (1, 3)}
    assert whole[3]["reason"] == "not_video"


def test_half_precision_that_overflows_is_refused(folder: Path) -> None:
    with vtcli.Predictor(folder / "tiny.safetensors", workers=0) as predictor:
        embedder = Embedder(predictor, EmbedSettings(dtype="fp16"))
        with pytest.raises(DataError, match=r"a\.mp4 exceeds the range of fp16; use --dtype fp32"):
            embedder._stored("a.mp4", torch.full((1, 4), 1e6))
        with pytest.raises(DataError, match="NaN or infinite"):
            embedder._stored("a.mp4", torch.full((1, 4), float("nan")))


def test_wrong_words_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    for words, sentence in {
        ("-o", "e.csv"): "use the extension .parquet or .npz",
        ("-o", "e.npz", "--stride", "1s"): "--stride needs windows",
        ("-o", "e.npz", "--shard", "0/2"): "--shard needs a folder",
        ("-o", "e.npz", "--format", "jsonl"): "--format is for a folder",
        ("-o", "e.npz", "--window", "1s", "--views", "2x1"): "leave out --views",
    }.items():
        done = vt_here("embed", folder / "videos_0.mp4", "-m", folder / "tiny.safetensors", *words)
        assert done.returncode == 2, words
        assert sentence in done.stderr
        assert len(done.stderr.splitlines()) == 1
    done = vt_here("embed", tmp_path / "none.mp4", "-m", folder / "tiny.safetensors", "-o", "e.npz")
    assert done.returncode == 4
    assert not Path("e.npz").exists()
    missing = tmp_path / "none" / "e.npz"
    done = vt_here(
        "embed", folder / "videos_0.mp4", "-m", folder / "tiny.safetensors", "-o", missing
    )
    assert done.returncode == 7
    assert "create it first" in done.stderr


def test_files_that_do_not_fit_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    def refused(match: str, **arrays: np.ndarray) -> None:
        np.savez(tmp_path / "x.npz", **arrays)
        with pytest.raises(DataError, match=match):
            read_embeddings(tmp_path / "x.npz")

    eye = np.eye(2, dtype=np.float32)
    refused("has no column embedding; its columns are id", id=np.array(["a"]))
    refused("has no embeddings", embedding=np.zeros((0, 4), np.float32))
    refused(r"shape \[2\], not \[rows,features\]", embedding=np.ones(2))
    refused("int64, not floating-point", embedding=np.ones((2, 2), np.int64))
    damaged = np.array([[1, 0], [0, np.nan]], np.float32)
    refused(r"embedding 1 of .* \(b\) is NaN", embedding=damaged, id=np.array(["a", "b"]))
    refused("embeddings of 2 models", embedding=eye, model_fingerprint=np.array(["a", "b"]))
    refused("cannot be read as NumPy", embedding=np.array([{}, {}]))
    shutil.copy(folder / "tiny.safetensors", tmp_path / "x.parquet")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_embeddings(tmp_path / "x.parquet")
    frame = pandas.DataFrame({"embedding": [[1.0, 2.0], [1.0]]})
    frame.to_parquet(tmp_path / "y.parquet")
    with pytest.raises(DataError, match="several widths"):
        read_embeddings(tmp_path / "y.parquet")
    with pytest.raises(DataError, match="not a folder of embeddings"):
        read_embeddings(tmp_path)
    with pytest.raises(UsageError, match="not a file of embeddings"):
        read_embeddings(folder / "videos_0.mp4")
    with pytest.raises(InputError, match="vt embed VIDEOS -o"):
        read_embeddings(tmp_path / "none.npz")
