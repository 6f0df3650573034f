"""The queries of a search: videos, class names, and vectors from files; and the labels of an index.

Shape legend: D features.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vtcli.data.open import DatasetReader
from vtcli.data.samples import Sample
from vtcli.errors import DataError, InputError, UsageError
from vtcli.inference.embedding import Embedder
from vtcli.inference.embeddings_file import Embeddings, is_embeddings, read_embeddings
from vtcli.inference.inputs import find_videos
from vtcli.inference.predictor import Predictor
from vtcli.inference.results import Failure
from vtcli.inference.search import Query
from vtcli.inference.settings import PredictSettings
from vtcli.runtime.files import file_sha256
from vtcli.runtime.progress import ProgressCallback
from vtcli.video.extensions import has_video_suffix
from vtcli.video.remote import is_url
from vtcli.weights.resolve import resolve

if TYPE_CHECKING:
    from vtcli.video.pipeline import Pipeline


class QueryReader:
    """Makes vectors of what a search is given, with the model of the index.

    `model` is needed for an index that does not say which model its embeddings are of; a file or a
    name of the same weights. Raises `UsageError` for a model of other weights.
    """

    def __init__(
        self,
        index: Embeddings,
        name: str,
        model: str | None = None,
        device: str = "auto",
        on_download: ProgressCallback | None = None,
    ) -> None:
        self.index, self.name, self.device, self.on_download = index, name, device, on_download
        self.model = model or index.settings.get("model_source")
        self._predictor: Predictor | None = None
        if model is not None:
            self._check_fingerprint(self._fingerprint(model), f"-m {model}")

    @property
    def pipeline(self) -> Pipeline | None:
        """How the model of the index sees a video; None where the model is not known."""
        return self.predictor.pipeline if self.model else None

    @property
    def predictor(self) -> Predictor:
        """Of the model, with the views and the precision that the index was made with."""
        if self.model is None:
            raise UsageError(
                f"{self.name} does not say which model its embeddings are of; add -m MODEL"
            )
        if self._predictor is None:
            made_with = self.index.settings
            settings = PredictSettings(
                views=made_with.get("views"),
                precision=made_with.get("precision", "auto"),
                device=self.device,
            )
            if self.index.fingerprint:
                self._check_fingerprint(self._fingerprint(self.model), self.model)
            self._predictor = Predictor(self.model, settings, on_download=self.on_download)
        return self._predictor

    def close(self) -> None:
        """End the processes that decode."""
        if self._predictor is not None:
            self._predictor.close()

    def read(self, texts: Sequence[str]) -> list[Query | Failure]:
        """The queries, in order: a folder gives one per video, a file of embeddings one per row.

        Raises `UsageError` for a name that is neither a file nor a class, and for vectors of
        another model or width; `InputError` and `DataError` for files of vectors.
        """
        texts = list(_expanded(texts))
        videos = [text for text in texts if _is_video(text)]
        embedded: Mapping[str, Query | Failure] = {}
        if videos:
            outcomes = Embedder(self.predictor).embed(videos)
            embedded = {
                path: outcome
                if isinstance(outcome, Failure)
                else Query(path, "video", outcome[0].values, path)
                for path, outcome in zip(videos, outcomes, strict=True)
            }
        queries: list[Query | Failure] = []
        for text in texts:
            if text in embedded:
                queries.append(embedded[text])
            elif text.lower().endswith(".npy"):
                queries.append(Query(text, "vector", self._array(Path(text))))
            elif is_embeddings(Path(text)):
                queries += self._rows_of(Path(text))
            else:
                queries.append(Query(text, "class", self._class_vector(text)))
        return queries

    def _fingerprint(self, model: str) -> str:
        return file_sha256(resolve(model, self.on_download).path)

    def _check_fingerprint(self, fingerprint: str, what: str) -> None:
        known = self.index.fingerprint
        if known and fingerprint and fingerprint != known:
            raise UsageError(
                f"{self.name} has embeddings of another model than {what} (fingerprints "
                f"{known[:8]} and {fingerprint[:8]}); search it with its own model, or embed the "
                "videos again"
            )

    def _rows_of(self, path: Path) -> list[Query]:
        found = read_embeddings(path)
        self._check_fingerprint(found.fingerprint, str(path))
        self._check_width(found.width, path)
        return [
            Query(id, "vector", vector_D, own)
            for id, own, vector_D in zip(found.ids, found.paths, found.vectors, strict=True)
        ]

    def _array(self, path: Path) -> NDArray[np.floating[Any]]:
        """The vector [D] in a .npy file of shape [D] or [1,D]."""
        try:
            vector = np.load(path, allow_pickle=False)
        except FileNotFoundError as error:
            raise InputError(f"there is no file {path}; name another query") from error
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} cannot be read as a NumPy array: {error}") from error
        if vector.shape not in ((vector.size,), (1, vector.size)) or not np.issubdtype(
            vector.dtype, np.floating
        ):
            raise DataError(
                f"{path} has {vector.dtype} of the shape {list(vector.shape)}, not one vector of "
                "floating-point numbers"
            )
        if not np.isfinite(vector).all():
            raise DataError(f"{path} has numbers that are NaN or infinite; name another query")
        self._check_width(vector.size, path)
        return np.asarray(vector.reshape(-1))

    def _check_width(self, width: int, path: Path) -> None:
        if width != self.index.width:
            raise UsageError(
                f"{path} has {width} features and {self.name} {self.index.width}; make both with "
                "the same model"
            )

    def _class_vector(self, name: str) -> NDArray[np.floating[Any]]:
        """The direction of a class: the mean of its labeled embeddings, else of the classifier.

        Softmax ignores what all classes add, so the classifier's mean row is subtracted.
        """
        if label := _same_name(name, self.index.labels):
            rows = [row for row, other in enumerate(self.index.labels) if other == label]
            vectors_ND = self.index.vectors[rows].astype(np.float32)
            norms_N = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
            return np.asarray((vectors_ND / np.maximum(norms_N, 1e-30)).mean(0))
        known: Sequence[str] = ()
        if self.model is not None:
            net = self.predictor.net
            known = net.labels
            if label := _same_name(name, known):
                weight_KD = _classifier(net, self.name, self.index.width)
                row = known.index(label)
                return np.asarray(weight_KD[row] - (weight_KD.mean(0) if len(known) > 1 else 0))
        way_out = (
            "name a video or a class" if self.model else "add -m MODEL for the model's classes"
        )
        raise UsageError(_unknown_query(name, [*dict.fromkeys(self.index.labels), *known], way_out))


def _expanded(texts: Sequence[str]) -> Iterator[str]:
    """The queries as they are, with the videos of folders in place of these."""
    for text in texts:
        is_folder = os.path.isdir(text) and not is_embeddings(Path(text))
        yield from find_videos([text]) if is_folder else [text]


def _is_video(text: str) -> bool:
    if is_url(text) or has_video_suffix(text):
        return True
    return os.path.isfile(text) and not is_embeddings(Path(text)) and not text.endswith(".npy")


def _same_name(name: str, labels: Sequence[str]) -> str:
    """The label of this name, in whatever case; "" if there is none."""
    if name in labels:
        return name
    by_folded = {label.casefold(): label for label in labels}
    return by_folded.get(name.casefold(), "")


def _classifier(net: Any, name: str, width: int) -> NDArray[np.float32]:
    """The weights [K,D] of a network's classifier; D must be the width of the index."""
    from vtcli.models import get_architecture

    tensor = get_architecture(net.card.arch).head_tensors[0]
    weight_KD = net.get_parameter(tensor).detach().float().cpu().flatten(1).numpy()
    if weight_KD.shape[1] != width:
        raise UsageError(
            f"the classifier of the model has {weight_KD.shape[1]} features and {name} {width}; "
            "search for a video instead of a class name"
        )
    return np.asarray(weight_KD)


def _unknown_query(name: str, labels: Sequence[str], way_out: str) -> str:
    folded = {label.casefold(): label for label in labels if label}
    near = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.6)
    meant = f"did you mean '{folded[near[0]]}'?" if near else way_out
    return f"'{name}' is neither a file nor a class of the index or its model; {meant}"


def with_labels(index: Embeddings, annotation: Path) -> Embeddings:
    """The index with the classes that an annotation, of any format and of all its splits, gives its
    videos; "" for those that are not in it. Several classes of a video are joined by `;`.

    Raises `DataError` where no video of the index is in the annotation, and what `open_dataset`
    raises.
    """
    reader = DatasetReader(annotation)
    labels_of: dict[str, list[tuple[Sample, str]]] = {}
    for split in reader.list_splits() or (None,):
        dataset = reader.open(split)
        names = next(iter(dataset.classes.values()))
        for sample in dataset.samples:
            words = [names[i] if names else str(i) for i in sample.labels]
            known = labels_of.setdefault(os.path.realpath(sample.path), [])
            known.append((sample, ";".join(words)))
    labels = tuple(
        _label_at(labels_of.get(os.path.realpath(path), ()), (start + end) / 2)
        for path, start, end in zip(index.paths, index.starts, index.ends, strict=True)
    )
    if not any(labels):
        raise DataError(
            f"none of the {len(index)} embeddings is of a video of {annotation}, such as "
            f"{index.paths[0]}; name another annotation with --labels"
        )
    return replace(index, labels=labels)


def _label_at(known: Sequence[tuple[Sample, str]], middle: float) -> str:
    """The label of the sample that shows the middle of a clip, in seconds."""
    for sample, label in known:
        after_start = sample.start is None or not middle < sample.start
        before_end = sample.end is None or not middle > sample.end
        if after_start and before_end:
            return label
    return ""
