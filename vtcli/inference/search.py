"""Nearest embeddings by cosine similarity, exact, and classification by the nearest neighbors.

A large index in half precision is compared a chunk at a time, without a second copy in memory.
Shape legend: N embeddings, Q queries, D features.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import UsageError
from vtcli.inference.embeddings_file import Embeddings

CHUNK = 1 << 16
COPY_BYTES = 4 << 30
"""An index in half precision is held in fp32, which searches ten times as fast, up to this size."""
VOTE_TEMPERATURE = 0.07
"""A neighbor's vote is exp(similarity / temperature), as in DINO's k-NN evaluation (Caron et al.,
2021, section 4.1)."""


@dataclass(frozen=True)
class Query:
    """What is searched for: a vector [D], and what it was made from.

    `kind`: `video`, `class`, or `vector` for a row of a file. `path`: the video it is of, whose own
    embeddings are left out of the results; "" for none.
    """

    text: str
    kind: str
    vector: NDArray[np.floating[Any]]
    path: str = ""


@dataclass(frozen=True)
class Match:
    """An embedding that was found: its row in the index, and its cosine similarity, -1 to 1."""

    row: int
    score: float


@dataclass(frozen=True)
class Vote:
    """A class and its fraction of the votes of the neighbors."""

    label: str
    score: float


@dataclass(frozen=True)
class SearchResult:
    """The nearest embeddings of one query, nearest first, and their votes where asked for."""

    query: Query
    matches: tuple[Match, ...]
    votes: tuple[Vote, ...] = ()


class VectorIndex:
    """Vectors [N,D] that are searched exactly."""

    def __init__(self, vectors_ND: NDArray[np.floating[Any]]) -> None:
        fits = 4 * vectors_ND.size <= COPY_BYTES
        self.vectors = vectors_ND.astype(np.float32, copy=False) if fits else vectors_ND
        self.inverse_norms = np.concatenate(
            [_inverse_norms(chunk.astype(np.float32, copy=False)) for chunk in self._chunks()]
        )

    def _chunks(self) -> list[NDArray[np.floating[Any]]]:
        return [self.vectors[at : at + CHUNK] for at in range(0, len(self.vectors), CHUNK)]

    def similarities(self, query_QD: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """The cosine similarity of each query with each vector: [Q,N]; 0 for a vector of zeros.

        Raises `UsageError` for queries of another width.
        """
        if query_QD.shape[1] != self.vectors.shape[1]:
            raise UsageError(
                f"the query has {query_QD.shape[1]} features and the index "
                f"{self.vectors.shape[1]}; make both with the same model"
            )
        unit_QD = query_QD.astype(np.float32)
        unit_QD *= _inverse_norms(unit_QD)[:, None]
        parts = [unit_QD @ chunk.astype(np.float32, copy=False).T for chunk in self._chunks()]
        return np.concatenate(parts, axis=1) * self.inverse_norms


def _inverse_norms(vectors_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    norms_N = np.sqrt(np.einsum("nd,nd->n", vectors_ND, vectors_ND))
    return np.where(norms_N > 0, 1 / np.maximum(norms_N, np.float32(1e-30)), 0).astype(np.float32)


def nearest(similarity_N: NDArray[np.floating[Any]], k: int) -> NDArray[np.int64]:
    """The rows of the k highest similarities, highest first; of equal ones the earlier rows.

    Rows of -inf are never returned.
    """
    k = min(k, len(similarity_N))
    least = np.partition(similarity_N, -k)[-k] if k else np.inf
    rows = np.flatnonzero((similarity_N >= least) & (similarity_N > -np.inf))
    return rows[np.argsort(-similarity_N[rows], kind="stable")][:k]


def search(
    index: Embeddings, queries: Sequence[Query], k: int, classify: bool = False
) -> list[SearchResult]:
    """The k nearest embeddings of each query, and with `classify` the votes of the k nearest ones
    that have a label.

    Embeddings of a query's own video are left out. Raises `UsageError` for queries of another
    width, and for `classify` without labels.
    """
    if classify and not any(index.labels):
        raise UsageError(
            "--classify needs labels, and the index has none; add --labels with an annotation file "
            "or a folder of class folders"
        )
    vectors = VectorIndex(index.vectors)
    own_rows = _rows_by_path(index, queries)
    labeled_N = np.array([bool(label) for label in index.labels])
    results = []
    for query in queries:  # one at a time: a matrix of all would not fit for many queries
        similarity_N = vectors.similarities(query.vector[None])[0]
        similarity_N[own_rows.get(query.path, [])] = -np.inf
        matches = _matches(similarity_N, k)
        votes: tuple[Vote, ...] = ()
        if classify:
            voters = _matches(np.where(labeled_N, similarity_N, -np.inf), k)
            votes = _votes([(index.labels[match.row], match.score) for match in voters])
        results.append(SearchResult(query, matches, votes))
    return results


def _matches(similarity_N: NDArray[np.floating[Any]], k: int) -> tuple[Match, ...]:
    return tuple(Match(int(row), float(similarity_N[row])) for row in nearest(similarity_N, k))


def _votes(neighbors: Sequence[tuple[str, float]]) -> tuple[Vote, ...]:
    """The classes of some neighbors with their fractions of the votes, most first."""
    totals: dict[str, float] = defaultdict(float)
    highest = max((score for _, score in neighbors), default=0.0)
    for label, score in neighbors:
        totals[label] += float(np.exp((score - highest) / VOTE_TEMPERATURE))
    whole = sum(totals.values())
    ranked = sorted(totals.items(), key=lambda item: -item[1])
    return tuple(Vote(label, total / whole) for label, total in ranked)


def _rows_by_path(index: Embeddings, queries: Sequence[Query]) -> dict[str, list[int]]:
    """Of each query's own video, the rows of the index."""
    wanted = {os.path.realpath(query.path): query.path for query in queries if query.path}
    names = {os.path.basename(path) for path in wanted}
    found: dict[str, list[int]] = {}
    for row, path in enumerate(index.paths):
        # A look at the disk only for files of the same name; a link has its target's name.
        if os.path.basename(path) in names and (own := wanted.get(os.path.realpath(path))):
            found.setdefault(own, []).append(row)
    return found
