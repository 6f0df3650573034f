"""The records of the registry: one `Checkpoint` per id, each with its ordered download `Source`s.

Plain data without behavior beyond lookups in itself; `registry_file.py` reads them from TOML, and
`weights_registry.toml` documents every key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vtcli.labels.heads import HeadSpec
from vtcli.video.pipeline import Pipeline


@dataclass(frozen=True)
class Source:
    """One place where a checkpoint is stored, in one upstream's file format.

    layout: the upstream's tensor names (`official`, `mmaction2`, `torchvision`, `hf`, `scenic`) or
        `vt` for our own files.
    serialization: how the file is read.
    link_status: what is known of the link; a dead one is never tried.
    wrapper_keys: the keys that lead to the tensors, joined by "." ("" for a flat file).
    labels, permutation: the class order of the head in this file, and the permutation from it to
        the entry's order (perm[our index] = row of the file).
    convertible: False for files whose tensor names are not known; they are listed, never read.

    unverified: nothing proves that the file has the weights of its entry; it is used only once the
        entry states `tensors_sha256`, and only if its converted tensors have that digest.

    A `bundled` file comes with this package and is used where it is.
    """

    kind: Literal["bundled", "hub", "https", "local"]
    layout: str
    serialization: Literal["safetensors", "pickle", "msgpack"]
    link_status: Literal["alive", "likely", "unknown", "dead"] = "unknown"
    repo: str = ""
    file: str = ""
    revision: str = ""
    url: str = ""
    wrapper_keys: str = ""
    bytes: int | None = None
    sha256: str = ""
    sha256_prefix: str = ""
    sha256_source: str = ""
    labels: str = ""
    permutation: str = ""
    license: str = ""
    checked: str = ""
    notes: str = ""
    convertible: bool = True
    unverified: bool = False

    @property
    def address(self) -> str:
        """The source in one word for messages: `hf://org/repo/file@revision`, a URL or a path."""
        if self.kind == "hub":
            return f"hf://{self.repo}/{self.file}" + (
                f"@{self.revision[:12]}" if self.revision else ""
            )
        return self.url or self.file


@dataclass(frozen=True)
class Checkpoint:
    """One id: one set of weights and the pipeline it is tested with.

    config: fields of the model's published configuration that differ for this checkpoint, and
        fields that the weights do not show.
    views: the published protocol, clips x crops.
    tensors_sha256: the digest of the converted tensors, as `vt convert --verify` prints it.
    params, gmacs: millions of parameters and giga multiply-accumulates per view as published;
        `cost_source` names the publication.
    """

    id: str
    arch: str
    model: str
    dataset: str
    heads: tuple[HeadSpec, ...]
    frames: int
    resolution: int
    pipeline: Pipeline
    views: str
    config: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    pretrain: str = ""
    top1: float | None = None
    top5: float | None = None
    metric: str = "top-1"
    metric_source: str = ""
    params: float | None = None
    gmacs: float | None = None
    cost_source: str = ""
    cost_note: str = ""
    license: str = ""
    notes: str = ""
    tensors_sha256: str = ""

    def may_use(self, source: Source) -> bool:
        """Whether a source can be tried: convertible, and provable where it is unverified."""
        return source.convertible and (bool(self.tensors_sha256) or not source.unverified)

    @property
    def num_classes(self) -> int:
        """Number of classes of all heads together."""
        return sum(head.size for head in self.heads)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names of the only head, or of all heads one after the other."""
        return tuple(label for head in self.heads for label in head.labels)

    @property
    def available(self) -> bool:
        """Whether at least one source is not known to be dead and can be converted."""
        return any(s.link_status != "dead" and self.may_use(s) for s in self.sources)
