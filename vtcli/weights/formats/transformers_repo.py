"""A model repository in another library's form: config.json, preprocessor_config.json and weights.

The form of transformers (ViViT) and of torchvision's Video Swin in a wrapper of the Hub's client.
Everything is checked before tensors are read: file names, numbers, labels.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli.errors import DataError, LayoutError, WeightsError
from vtcli.models import get_architecture, list_architectures
from vtcli.runtime.files import file_sha256
from vtcli.video.pipeline import Pipeline
from vtcli.weights.formats.preprocessor import Pixels, follow_preprocessor
from vtcli.weights.registry import load_registry
from vtcli.weights.repository import RepositoryFiles

if TYPE_CHECKING:
    from vtcli.weights.formats.readers import RawCheckpoint

CONFIG = "config.json"
# Our card in a repository of another form (`vtcli/weights/transformers_form.py`).
OWN_CARD = "vt.json"
PREPROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json")
# In the order in which transformers looks for them.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
MAX_JSON_BYTES = 50_000_000
# The pipeline that samples frames, and pixels too where the repository states none.
BASE_PIPELINES = {"vivit": "vivit-hf", "videoswin": "videoswin-torchvision"}
LABEL_LISTS = ("labels", "classes", "class_names")


@dataclass(frozen=True)
class Stated:
    """What a repository states besides its tensors.

    config: fields of our configuration; labels: class names, none if it has no classifier or names;
    confidence: where they come from; pipeline: None if no rule is known; facts: what comes from
    where; summary: one line about pixels and frames; warnings: what to check; own_card: the table
    of vt.json, empty without one.
    """

    place: str
    config: Mapping[str, Any] = field(default_factory=dict)
    library_config: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    confidence: str = ""
    pipeline: Pipeline | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    summary: str = ""
    warnings: tuple[str, ...] = ()
    own_card: Mapping[str, Any] = field(default_factory=dict)


class Repository:
    """Reads a repository; raises `LayoutError` and `DataError` naming the file and its key."""

    def __init__(self, files: RepositoryFiles) -> None:
        self.files = files

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The table of config.json, empty without one."""
        return self._json(CONFIG) if CONFIG in self.files.names else {}

    @property
    def is_ours(self) -> bool:
        """Whether `vt models push` wrote it: config.json is the card of model.safetensors."""
        return "arch" in self.config and "format" in self.config

    @property
    def is_video_model(self) -> bool:
        """Whether it holds a video model, in our form or another's."""
        return self.is_ours or self._architecture() is not None

    def read(self) -> tuple[RawCheckpoint, Stated, str, int]:
        """Tensors, what is stated besides them, the sha256 of the weights and their bytes."""
        stated = self.stated()
        paths = self._weight_files()
        contents = _without_prefix(_merged(paths, self.files.place))
        sizes = sum(path.stat().st_size for path in paths)
        return contents, stated, _digest(paths), sizes

    def stated(self) -> Stated:
        """What the files besides the weights state."""
        name, fields = self._architecture() or ("", {})
        if not name:
            self.refuse_other_models()
            return Stated(self.files.place, facts={"labels": "not stated"})
        labels, confidence = self._labels()
        pixels, source = self._pixels(name, fields)
        warnings = [pixels.warning] if pixels.warning else []
        problem = self.config.get("problem_type")
        if problem == "regression":
            raise LayoutError(f"{self.files.place} predicts numbers, not classes (problem_type)")
        if problem == "multi_label_classification":
            warnings.append(
                "it was trained with several labels per video (problem_type): the ranking is its "
                "own, but scores are a softmax over the classes"
            )
        if source is None:
            warnings.append(
                f"it has no {PREPROCESSORS[0]}: pixels are prepared as the pipeline "
                f"{BASE_PIPELINES[name]} does, and --pipeline changes that"
            )
        rule, gray = pixels.pipeline.sampling, pixels.pipeline.channel_order == "gray"
        return Stated(
            place=self.files.place,
            config=fields,
            library_config=self.config,
            labels=labels,
            confidence=confidence,
            pipeline=pixels.pipeline,
            facts={
                "network": CONFIG,
                "labels": confidence or "not stated",
                "pixels": source or f"not stated; pipeline {BASE_PIPELINES[name]}",
                "frames": f"how to sample them is not stated; {rule}",
                **({"gray": "how to make it is not stated; ITU-R BT.601"} if gray else {}),
            },
            summary=(
                f"pixels as {source or 'pipeline ' + BASE_PIPELINES[name]} says: {pixels.text}; "
                f"frames by {rule}, which the repository does not state (--pipeline changes it)"
            ),
            warnings=tuple(warnings),
            own_card=self._json(OWN_CARD) if OWN_CARD in self.files.names else {},
        )

    def _architecture(self) -> tuple[str, dict[str, Any]] | None:
        """The architecture whose library wrote config.json, and the fields it states."""
        for name in list_architectures():
            read = get_architecture(name).read_library_config
            fields = read(self.config) if read is not None and self.config else None
            if fields is not None:
                return name, fields
        return None

    def refuse_other_models(self) -> None:
        """Raise `LayoutError` where config.json is of a model that is not supported."""
        names = self.config.get("architectures") or [self.config.get("model_type")]
        named = [str(n)[:80] for n in names if n] if isinstance(names, list) else []
        if named:
            raise LayoutError(
                f"{self.files.place} is a {' and '.join(named)} ({CONFIG}); supported are ViViT in "
                "transformers' form, Video Swin in torchvision's, and repositories of `vt models "
                "push`"
            )

    def _labels(self) -> tuple[tuple[str, ...], str]:
        """Class names and where they come from; none if the repository has none."""
        table = self.config.get("id2label")
        if table is None:
            for key in LABEL_LISTS:
                names = self.config.get(key)
                if isinstance(names, list) and names and all(isinstance(n, str) for n in names):
                    return tuple(names), f"{key} of {CONFIG}"
            return (), ""
        if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
            raise DataError(f"{self.files.place}: id2label of {CONFIG} is not a table of names")
        expected = [str(index) for index in range(len(table))]
        if sorted(table) != sorted(expected):
            raise DataError(
                f"{self.files.place}: id2label of {CONFIG} does not number its {len(table)} "
                f"classes 0 to {len(table) - 1}"
            )
        if all(name == f"LABEL_{index}" for index, name in table.items()):
            return (), ""  # what transformers writes where nobody named the classes
        return tuple(table[index] for index in expected), f"id2label of {CONFIG}"

    def _pixels(self, arch: str, fields: Mapping[str, Any]) -> tuple[Pixels, str | None]:
        """The pipeline and the name of the file that it follows, None if there is none."""
        base = load_registry().pipelines[BASE_PIPELINES[arch]]
        size = fields.get("image_size", base.crop_size)
        short_side = round(base.short_side * size / base.crop_size)
        base = replace(base, frames=fields.get("num_frames", base.frames))
        for name in PREPROCESSORS:
            if name in self.files.names:
                channels = fields.get("num_channels", 3)
                table = self._json(name)
                return follow_preprocessor(table, name, base, size, channels), name
        base = replace(base, short_side=short_side, crop_size=size)
        if fields.get("num_channels") == 1:
            base = replace(base, channel_order="gray")
        return Pixels(base, f"short side {short_side}, center crop {size}x{size}"), None

    def _json(self, name: str) -> dict[str, Any]:
        path = self.files.get(name)
        try:
            if path.stat().st_size > MAX_JSON_BYTES:
                raise ValueError("it is too large")
            table = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(table, dict):
                raise ValueError("it is not a table")
        except (ValueError, RecursionError, OSError) as error:
            raise WeightsError(
                f"{name} of {self.files.place} cannot be read as JSON: {error}"
            ) from error
        return table

    def _weight_files(self) -> list[Path]:
        """The file with the weights, or all shards; raises `WeightsError` naming a missing one."""
        names = self.files.names
        for name in WEIGHTS:
            if name in names:
                return [self.files.get(name)]
            if name + INDEX in names:
                return [self.files.get(shard) for shard in self._shards(name + INDEX)]
        others = ", ".join(sorted(names)[:5]) or "nothing"
        raise WeightsError(
            f"{self.files.place} has no {' or '.join(WEIGHTS)} (it has {others}); name another "
            "repository, or a checkpoint file of it with `vt convert`"
        )

    def _shards(self, index: str) -> list[str]:
        table = self._json(index).get("weight_map")
        if not isinstance(table, dict) or not table:
            raise WeightsError(f"{index} of {self.files.place} has no weight_map")
        shards = sorted({str(shard) for shard in table.values()})
        for shard in shards:
            if not re.fullmatch(r"\w[\w.-]*\.(safetensors|bin)", shard, re.ASCII):
                raise WeightsError(
                    f"{index} of {self.files.place} names the file {shard!r}, not one beside it"
                )
            if shard not in self.files.names:
                raise WeightsError(
                    f"{self.files.place} lacks {shard}, which {index} names; download it again"
                )
        return shards


def _merged(paths: list[Path], place: str) -> RawCheckpoint:
    """The tensors of all files, without a prefix that all of their names share."""
    from vtcli.weights.formats.readers import RawCheckpoint, read_shard

    tensors: dict[str, Any] = {}
    for path in paths:
        contents = read_shard(path)
        if twice := tensors.keys() & contents.tensors.keys():
            raise WeightsError(f"{place} has the tensor '{min(twice)}' in two files")
        tensors |= contents.tensors
    if len(paths) > 1:
        return RawCheckpoint(tensors, contents.kind, contents.wrapper_keys)
    return replace(contents, tensors=tensors)


def _digest(paths: list[Path]) -> str:
    """The sha256 of one file; of several, that of the list of their digests."""
    if len(paths) == 1:
        return file_sha256(paths[0])
    lines = "".join(f"{file_sha256(path)}  {path.name}\n" for path in paths)
    return hashlib.sha256(lines.encode()).hexdigest()


def _without_prefix(contents: RawCheckpoint) -> RawCheckpoint:
    """The tensors without the prefix of a wrapper (`model.`), where only then a layout fits."""
    layouts = [x for name in list_architectures() for x in get_architecture(name).layouts.values()]
    firsts = {name.partition(".")[0] for name in contents.tensors}
    if len(firsts) != 1 or any(layout.recognizes(contents.tensors) for layout in layouts):
        return contents
    prefix = f"{firsts.pop()}."
    tensors = {name.removeprefix(prefix): tensor for name, tensor in contents.tensors.items()}
    keys = [key for key in (contents.wrapper_keys, prefix[:-1]) if key]
    return replace(contents, tensors=tensors, wrapper_keys=".".join(keys))
