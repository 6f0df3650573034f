"""A search finds the nearest embeddings by cosine similarity, exactly, and classifies by them."""

from __future__ import annotations

import csv
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from tests import tiny
from tests.evaluation.harness import CLASSES, class_folders, model_file, vt_here
from vtcli.errors import UsageError
from vtcli.inference.embeddings_file import Embeddings, read_embeddings
from vtcli.inference.search import Query, VectorIndex, nearest, search
from vtcli.weights.load import load_model


def random_index(count: int, width: int = 16, dtype: type = np.float32) -> Embeddings:
    vectors = np.random.default_rng(0).standard_normal((count, width)).astype(dtype)
    names = tuple(f"{n}.mp4" for n in range(count))
    times = np.zeros(count)
    return Embeddings(names, names, times, times + 1, vectors)


def query(vector: np.ndarray, path: str = "") -> Query:
    return Query("q", "vector", vector, path)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_nearest_are_those_of_scikit_learn(
    dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vtcli.inference.search.CHUNK", 64)
    monkeypatch.setattr("vtcli.inference.search.COPY_BYTES", 0)
    index = random_index(300, dtype=dtype)
    vector = np.random.default_rng(1).standard_normal(16).astype(np.float32)
    (result,) = search(index, [query(vector)], 7)
    oracle = NearestNeighbors(n_neighbors=7, metric="cosine").fit(index.vectors.astype(float))
    distances, rows = oracle.kneighbors(vector[None].astype(float))
    assert [match.row for match in result.matches] == rows[0].tolist()
    assert [match.score for match in result.matches] == pytest.approx(1 - distances[0], abs=1e-5)


def test_equal_similarities_keep_the_order_of_the_index() -> None:
    assert nearest(np.array([0.5, 1, 0.5, 1, 0.5, -np.inf]), 4).tolist() == [1, 3, 0, 2]
    assert nearest(np.array([0.5, -np.inf]), 4).tolist() == [0]
    assert nearest(np.array([]), 4).tolist() == []


def test_a_vector_of_zeros_is_similar_to_nothing() -> None:
    index = random_index(3)
    index.vectors[1] = 0
    similarities = VectorIndex(index.vectors).similarities(index.vectors)
    assert np.diag(similarities) == pytest.approx([1, 0, 1])
    assert np.isfinite(similarities).all()


def test_a_query_of_another_width_is_refused() -> None:
    with pytest.raises(UsageError, match="the query has 5 features and the index 16"):
        search(random_index(3), [query(np.ones(5))], 1)


def test_embeddings_of_the_own_video_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "a.mp4")
    paths = (str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4"), "a.mp4")
    index = replace(random_index(3), paths=paths)
    (result,) = search(index, [query(index.vectors[0], f"{tmp_path}/./a.mp4")], 3)
    assert sorted(match.row for match in result.matches) == [1, 2]


def test_votes_are_those_of_the_weighted_neighbors() -> None:
    vectors = np.array([[1, 0], [1, 0], [0.8, 0.6], [1, 0.01]], np.float32)
    labels = ("a", "", "b", "a")
    index = replace(random_index(4), vectors=vectors, labels=labels)
    (result,) = search(index, [query(np.array([1, 0]))], 3, classify=True)
    a = np.exp(1 / 0.07) + np.exp(1 / np.sqrt(1.0001) / 0.07)
    b = np.exp(0.8 / 0.07)
    votes = {vote.label: vote.score for vote in result.votes}
    assert votes == pytest.approx({"a": a / (a + b), "b": b / (a + b)}, abs=1e-5)
    with pytest.raises(UsageError, match="--classify needs labels"):
        search(random_index(4), [query(vectors[0])], 3, classify=True)


def test_100_000_embeddings_are_searched_in_a_tenth_of_a_second() -> None:
    index = VectorIndex(np.random.default_rng(0).standard_normal((100_000, 128), np.float32))
    vector = index.vectors[:1]

    def seconds() -> float:
        start = time.process_time()  # of which a busy machine takes no more
        assert nearest(index.similarities(vector)[0], 10)[0] == 0
        return time.process_time() - start

    assert min(seconds() for _ in range(5)) < 0.1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of each of eight classes, a model, and the embeddings of the videos."""
    folder = tmp_path_factory.mktemp("search")
    model_file(folder / "tiny.safetensors")
    class_folders(folder / "videos", 2)
    model = ("-m", folder / "tiny.safetensors", "--precision", "fp32", "-j", "0")
    assert vt_here("embed", folder / "videos", *model, "-o", folder / "e.npz").returncode == 0
    return folder


def found(folder: Path, *words: str | Path) -> dict:
    done = vt_here("search", *words, "--index", folder / "e.npz", "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_copy_of_a_video_is_found_first_and_has_its_class(folder: Path, tmp_path: Path) -> None:
    original = sorted((folder / "videos").rglob("*.mp4"))[5]
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(original.read_bytes())
    table = found(folder, copy, "-k", "1", "--labels", folder / "videos", "--classify")
    (result,) = table["queries"]
    (match,) = result["matches"]
    assert match["path"] == str(original)
    assert match["score"] == pytest.approx(1, abs=1e-4)
    label = original.parent.name.replace("_", " ")
    assert match["label"].replace("_", " ") == label
    assert [v["label"].replace("_", " ") for v in result["classes"]] == [label]
    itself = found(folder, original, "-k", "16")["queries"][0]["matches"]
    assert len(itself) == 15
    assert str(original) not in {match["path"] for match in itself}


def test_a_class_is_the_direction_of_the_classifier(folder: Path) -> None:
    name = CLASSES[3].upper()
    matches = found(folder, name, "-k", "16")["queries"][0]["matches"]
    weight = load_model(folder / "tiny.safetensors").get_parameter("head.weight").detach().numpy()
    direction = weight[3] - weight.mean(0)
    index = read_embeddings(folder / "e.npz")
    cosine = index.vectors @ direction / np.linalg.norm(direction)
    cosine /= np.linalg.norm(index.vectors, axis=1)
    by_path = dict(zip(index.paths, cosine.tolist(), strict=True))
    assert [m["score"] for m in matches] == pytest.approx(sorted(cosine, reverse=True), abs=1e-4)
    assert by_path[matches[0]["path"]] == max(by_path.values())


def test_a_class_of_a_labeled_index_is_the_mean_of_its_embeddings(folder: Path) -> None:
    words = ["-k", "2", "--labels", folder / "videos"]
    name = CLASSES[0].replace(" ", "_")
    labeled = found(folder, name, *words)["queries"][0]["matches"]
    assert {match["label"] for match in labeled} == {name}


def test_rows_of_a_file_and_arrays_are_queries(folder: Path, tmp_path: Path) -> None:
    index = read_embeddings(folder / "e.npz")
    np.save(tmp_path / "v.npy", index.vectors[2])
    table = found(folder, tmp_path / "v.npy", folder / "e.npz", "-k", "1")
    assert len(table["queries"]) == 17
    assert table["queries"][0]["matches"][0]["id"] == index.ids[2]
    assert table["queries"][1]["query"] == index.ids[0]


def test_csv_and_table_have_the_same_clips_as_json(folder: Path, tmp_path: Path) -> None:
    words = ["search", CLASSES[1], "--index", folder / "e.npz", "-k", "3"]
    assert vt_here(*words, "-o", tmp_path / "r.csv").returncode == 0
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    matches = found(folder, CLASSES[1], "-k", "3")["queries"][0]["matches"]
    assert [row["path"] for row in rows] == [match["path"] for match in matches]
    assert [float(row["score"]) for row in rows] == [match["score"] for match in matches]
    shown = vt_here(*words).stdout
    assert shown.startswith(CLASSES[1])
    assert all(f"{match['score']:.3f}" in shown for match in matches)


def test_a_contact_sheet_shows_the_frames_and_escapes_names(folder: Path, tmp_path: Path) -> None:
    video = sorted((folder / "videos").rglob("*.mp4"))[0]
    query_video = tmp_path / "<b>&.mp4"
    query_video.write_bytes(video.read_bytes())
    words = ["search", query_video, CLASSES[2], "--index", folder / "e.npz", "-k", "2"]
    done = vt_here(*words, "-o", tmp_path / "sheet.html")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "sheet.html").read_text()
    assert page.count("<section") == 2
    assert page.count("<img") >= 5 * 4
    assert "&lt;b&gt;&amp;.mp4" in page
    assert "<b>&" not in page
    assert "script-src" not in page
    assert "default-src &#39;none&#39;" in page


def test_wrong_words_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    model_file(tmp_path / "other.safetensors", seed=1)
    np.save(tmp_path / "narrow.npy", np.ones(7, np.float32))
    np.savez(tmp_path / "foreign.npz", embedding=np.eye(2, 64, dtype=np.float32))
    (tmp_path / "labels.csv").write_text("path,label\nx.mp4,a\ny.mp4,b\n")
    tiny.video(tmp_path / "clip.mp4")
    index = ("--index", folder / "e.npz")
    other = ("-m", tmp_path / "other.safetensors")
    for words, code, sentence in (
        (("nonsense", *index), 2, "neither a file nor a class of the index or its model"),
        ((CLASSES[0][:-1], *index), 2, f"did you mean '{CLASSES[0]}'?"),
        ((CLASSES[0], *index, *other), 2, "has embeddings of another model than -m"),
        ((tmp_path / "narrow.npy", *index), 2, "narrow.npy has 7 features and"),
        ((CLASSES[0], *index, "--classify"), 2, "--classify needs labels"),
        ((CLASSES[0], *index, "--labels", tmp_path / "labels.csv"), 7, "none of the 16 embeddings"),
        ((CLASSES[0], "--index", tmp_path / "none.npz"), 4, "there is no file"),
        ((tmp_path / "clip.mp4", "--index", tmp_path / "foreign.npz"), 2, "add -m MODEL"),
        ((tmp_path / "gone.mp4", *index), 4, "cannot be opened"),
        ((CLASSES[0], *index, "-o", tmp_path / "x.pdf"), 2, "no known file extension"),
    ):
        done = vt_here("search", *words)
        assert done.returncode == code, (words, done.stderr)
        assert sentence in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
