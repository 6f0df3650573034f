"""A model repository in another library's form: config.json, preprocessor_config.json and weights.

The form of transformers (ViViT) and of torchvision's Video Swin in a wrapper of the Hub's client.
Everything is checked before tensors are read: file names, numbers, labels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli.errors import DataError, FetchError, LayoutError, WeightsError
from vtcli.models import get_architecture, list_architectures
from vtcli.runtime.progress import ProgressCallback, no_progress
from vtcli.video.pipeline import MULTI_LABEL, Pipeline
from vtcli.weights.checkpoint import CARD_KEY, WEIGHTS_FILE, read_card, read_header
from vtcli.weights.downloaded import named_by_source
from vtcli.weights.formats.preprocessor import Pixels, follow_preprocessor
from vtcli.weights.registry import load_registry
from vtcli.weights.repository import HUB_PREFIX, RepositoryFiles

if TYPE_CHECKING:
    from vtcli.weights.formats.readers import RawCheckpoint

CONFIG = "config.json"
# Our card in a repository of another form (`vtcli/weights/transformers_form.py`).
OWN_CARD = "vt.json"
PREPROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json")
# Where newer versions of transformers put the processor of pixels, under one of these keys.
PROCESSOR = "processor_config.json"
PROCESSOR_KEYS = ("image_processor", "video_processor")
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


@dataclass(frozen=True)
class Reading:
    """How to read a source: with its own labels or without, and which copy of its weights.

    on_bytes: called with the bytes of its files that are hashed.
    """

    labels: bool = True
    ema: bool = False
    on_bytes: ProgressCallback = no_progress


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

    def read(self, reading: Reading) -> tuple[RawCheckpoint, Stated, str, int]:
        """Tensors, what is stated besides them, the sha256 of the weights and their bytes."""
        from vtcli.weights.formats.readers import (
            checkpoint_digest,
            checkpoint_files,
            fits_a_layout,
            read_checkpoint,
        )

        stated = self.stated(reading.labels)
        path = self._weights()
        with self._named(path):
            contents = read_checkpoint(path, fits_a_layout, reading.ema)
            size = sum(file.stat().st_size for file in checkpoint_files(path))
        return contents, stated, checkpoint_digest(path, reading.on_bytes), size

    def _named(self, path: Path) -> AbstractContextManager[None]:
        """Inside, errors about a file of a Hub repository name the repository."""
        if not self.files.place.startswith(HUB_PREFIX):
            return nullcontext()
        return named_by_source(path, self.files.place)

    def card(self) -> Path:
        """The file of a repository in our form, whose card is checked."""
        path = self.files.get(WEIGHTS_FILE)
        with self._named(path):
            read_card(path)
        return path

    def holds_card(self) -> bool:
        """Whether `WEIGHTS_FILE` states a card of ours."""
        path = self.files.get(WEIGHTS_FILE)
        with self._named(path):
            return CARD_KEY in (read_header(path).get("__metadata__") or {})

    def stated(self, with_labels: bool = True) -> Stated:
        """What the files besides the weights state."""
        name, fields = self._architecture() or ("", {})
        if not name:
            self.refuse_other_models()
            return Stated(self.files.place, facts={"labels": "not stated"})
        labels, confidence = self._labels() if with_labels else ((), "")
        pixels, source = self._pixels(name, fields)
        warnings = [pixels.warning] if pixels.warning else []
        problem = self.config.get("problem_type")
        if problem == "regression":
            raise LayoutError(f"{self.files.place} predicts numbers, not classes (problem_type)")
        if source is None:
            warnings.append(
                f"it has no {PREPROCESSORS[0]}: pixels are prepared as the pipeline "
                f"{BASE_PIPELINES[name]} does, and --pipeline changes that"
            )
        other = names_by_number(self.config.get("label2id"))
        if confidence.startswith("id2label") and other and other != labels:
            warnings.append(f"id2label and label2id of {CONFIG} disagree: id2label is followed")
        own_card: Mapping[str, Any] = {}
        try:
            own_card = self._json(OWN_CARD) if OWN_CARD in self.files.names else {}
        except FetchError:
            raise
        except WeightsError as error:
            warnings.append(str(error))
        pipeline = pixels.pipeline
        if problem == "multi_label_classification":
            pipeline = replace(pipeline, view_fusion=MULTI_LABEL)
        rule, gray = pipeline.sampling, pipeline.channel_order == "gray"
        return Stated(
            place=self.files.place,
            config=fields,
            library_config=self.config,
            labels=labels,
            confidence=confidence,
            pipeline=pipeline,
            facts={
                "network": CONFIG,
                "labels": confidence or "not stated",
                "pixels": source or f"not stated; pipeline {BASE_PIPELINES[name]}",
                "frames": f"how to sample them is not stated; {rule}",
                **({"scores": "class by class (problem_type)"} if pipeline.multi_label else {}),
                **({"gray": "how to make it is not stated; ITU-R BT.601"} if gray else {}),
            },
            summary=(
                f"pixels as {source or 'pipeline ' + BASE_PIPELINES[name]} says: {pixels.text}; "
                f"frames by {rule}, which the repository does not state (--pipeline changes it)"
            ),
            warnings=tuple(warnings),
            own_card=own_card,
        )

    def _architecture(self) -> tuple[str, dict[str, Any]] | None:
        """The architecture whose library wrote config.json, and the fields it states."""
        for name in list_architectures():
            read = get_architecture(name).read_library_config
            try:
                fields = read(self.config) if read is not None and self.config else None
            except LayoutError as error:
                raise LayoutError(f"{self.files.place}: {error}") from error
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
        if table is None and (names := names_by_number(self.config.get("label2id"))):
            return names, f"label2id of {CONFIG}"
        if table is None:
            for key in LABEL_LISTS:
                listed = self.config.get(key)
                if isinstance(listed, list) and listed and all(isinstance(n, str) for n in listed):
                    return tuple(listed), f"{key} of {CONFIG}"
            return (), ""
        place = self.files.place
        way = f"give the names: vt convert {place} --labels FILE -o model.safetensors"
        if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
            raise DataError(f"{place}: id2label of {CONFIG} is not a table of names; {way}")
        expected = [str(index) for index in range(len(table))]
        if sorted(table) != sorted(expected):
            raise DataError(
                f"{place}: id2label of {CONFIG} does not number its {len(table)} classes 0 to "
                f"{len(table) - 1}; {way}"
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
        name, table = self._preprocessor()
        if name:
            channels = fields.get("num_channels", 3)
            try:
                return follow_preprocessor(table, name, base, size, channels), name
            except DataError as error:
                raise DataError(
                    f"{self.files.place}: {error}; correct the file in a copy of the repository"
                ) from error
        base = replace(base, short_side=short_side, crop_size=size)
        if fields.get("num_channels") == 1:
            base = replace(base, channel_order="gray")
        return Pixels(base, f"short side {short_side}, center crop {size}x{size}"), None

    def _preprocessor(self) -> tuple[str, Mapping[str, Any]]:
        """The name and the table of the file that says how pixels are made; "" without one."""
        if PROCESSOR in self.files.names:
            table = self._json(PROCESSOR)
            for key in PROCESSOR_KEYS:
                if isinstance(table.get(key), dict):
                    return PROCESSOR, table[key]
        name = next((name for name in PREPROCESSORS if name in self.files.names), "")
        return name, self._json(name) if name else {}

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

    def _weights(self) -> Path:
        """The file with the weights, or the index of its parts, which are there too.

        Raises `WeightsError` naming a missing one.
        """
        names = self.files.names
        for name in WEIGHTS:
            if name in names:
                return self.files.get(name)
            if name + INDEX in names:
                for shard in self._shards(name + INDEX):
                    self.files.get(shard)
                return self.files.get(name + INDEX)
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


def names_by_number(table: Any) -> tuple[str, ...]:
    """The names of a label2id in the order of their numbers; none if these are not 0, 1, ..., or
    if nobody named the classes (`LABEL_0`).
    """
    if not isinstance(table, dict) or all(name == f"LABEL_{n}" for name, n in table.items()):
        return ()
    names = {str(number): str(name) for name, number in table.items()}
    order = [str(index) for index in range(len(table))]
    return tuple(names[index] for index in order) if sorted(names) == sorted(order) else ()
