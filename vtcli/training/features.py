"""The features of a frozen backbone, computed once per video and view and cached in the run.

RUN/features/ holds files of `CHUNK` rows. Each names what its features depend on (weights,
pipeline, augmentation, samples, precision); a file of anything else is computed again. A run that
is killed loses the file in progress.
Legend: N rows (a view of a video each), D features, T frames, S side of a frame.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli.data.clip_loader import ClipReader
from vtcli.data.train_loader import ClipRequest, TrainClipReader
from vtcli.errors import DataError, VideoDecodeError, WeightsError
from vtcli.inference.scoring import CPU_BATCH_VALUES, GPU_BATCH_VALUES
from vtcli.runtime.distributed import Group
from vtcli.runtime.prefetch import prefetch
from vtcli.training.plan import TrainPlan
from vtcli.training.validate import CENTER_VIEW
from vtcli.video.decode_pool import DecodePool
from vtcli.weights.checkpoint import open_tensors, read_header, write_checkpoint

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

FOLDER, KEY = "features", "vt_features"
CHUNK = 64
CLIPS_WANTED = 256
MOST_VIEWS = 4
FILES_SHOWN = 3


@dataclass(frozen=True)
class FeatureRow:
    """What a row shows: view 0 is the center view of a video, the others are augmented clips."""

    training: bool
    number: int
    view: int


@dataclass(frozen=True)
class Features:
    """Features `values` [N,D], fp32, of the rows that could be read; `failed`: path -> error."""

    rows: tuple[FeatureRow, ...]
    values: Tensor
    failed: Mapping[str, str]


def views_per_video(videos: int) -> int:
    """One view of each video, and augmented ones where there are few videos."""
    return max(1, min(MOST_VIEWS, -(-CLIPS_WANTED // max(1, videos))))


def feature_rows(plan: TrainPlan) -> list[FeatureRow]:
    """All rows of a training: the views of each training video, then the validation videos."""
    train, validation = plan.split.train.samples, plan.split.validation.samples
    views = views_per_video(len(train))
    rows = [FeatureRow(True, n, view) for n in range(len(train)) for view in range(views)]
    return rows + [FeatureRow(False, n, 0) for n in range(len(validation))]


class FeatureCache:
    """Computes and caches the features of a frozen network, `model`, in `folder`."""

    def __init__(
        self,
        plan: TrainPlan,
        folder: Path,
        model: nn.Module,
        dtype: torch.dtype,
        decoders: DecodePool,
        workers: int,
    ) -> None:
        self.plan, self.folder, self.model = plan, folder / FOLDER, model
        self.decoders, self.workers = decoders, workers
        self.rows = feature_rows(plan)
        self.device, self.dtype = next(model.parameters()).device, dtype
        pipeline, decoder = plan.model_init.pipeline, plan.settings.decoder
        train, validation = plan.split.train, plan.split.validation
        self.center = {
            True: ClipReader(pipeline, 1, 1, train.frame_rate, decoder),
            False: ClipReader(pipeline, 1, 1, validation.frame_rate, decoder),
        }
        self.augmented = TrainClipReader(
            pipeline,
            plan.augmentation,
            plan.seed,
            train.frame_rate,
            decoder,
            open_source=decoders.open,
        )
        self.fingerprint = self._fingerprint()

    def _fingerprint(self) -> str:
        """Of everything the features depend on."""
        plan, sha = self.plan, hashlib.sha256()
        facts = plan.fingerprint()
        kept = ("config", "pipeline", "train_samples", "val_samples", "seed")
        augmentation, precision = asdict(plan.augmentation), str(self.dtype)
        table = [{name: facts[name] for name in kept}, augmentation, precision, len(self.rows)]
        sha.update(json.dumps(table, sort_keys=True).encode())
        head = plan.model_init.architecture.head_tensors
        for name, tensor in sorted(self.model.state_dict().items()):
            if name not in head:
                sha.update(name.encode())
                sha.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return sha.hexdigest()[:20]

    def _path(self, chunk: int) -> Path:
        return self.folder / f"features-{chunk:06d}.safetensors"

    @property
    def chunks(self) -> range:
        """The numbers of the files."""
        return range(-(-len(self.rows) // CHUNK))

    def missing(self) -> tuple[list[int], int]:
        """The files that are still to compute, and how many of them are there with the features of
        something else.
        """
        states = {chunk: self._state(chunk) for chunk in self.chunks}
        others = sum(state is False for state in states.values())
        return [chunk for chunk, state in states.items() if not state], others

    def _state(self, chunk: int) -> bool | None:
        """True for a file of these features, False for one of others or a damaged one, None for
        none.
        """
        path = self._path(chunk)
        if not path.exists():
            return None
        try:
            metadata = read_header(path).get("__metadata__") or {}
            return bool(json.loads(metadata[KEY])["fingerprint"] == self.fingerprint)
        except (WeightsError, KeyError, ValueError, TypeError):
            return False

    def compute(
        self, group: Group, stopped: Callable[[], int], on_row: Callable[[int, int], None]
    ) -> int:
        """Compute what is missing, divided among the processes; returns the number of a signal that
        stopped it, or 0.

        `on_row` is called with the rows done and all rows. Raises `DataError` for features that are
        NaN or Inf, naming the videos, and for a full disk.
        """
        missing, _ = self.missing()
        mine = missing[group.rank :: group.size]
        if group.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
        group.all_gather(True)
        done = len(self.rows) - sum(len(self._rows_of(chunk)) for chunk in mine)
        for chunk in mine:
            if stopped():
                break
            self._compute_chunk(chunk)
            done += len(self._rows_of(chunk))
            on_row(done, len(self.rows))
        return max(group.all_gather(stopped()))

    def _rows_of(self, chunk: int) -> list[FeatureRow]:
        return self.rows[chunk * CHUNK : (chunk + 1) * CHUNK]

    def _compute_chunk(self, chunk: int) -> None:
        import torch

        rows, found, failed = self._rows_of(chunk), {}, {}
        for number, feature_D in self._features(rows):
            if isinstance(feature_D, VideoDecodeError):
                failed[feature_D.path] = str(feature_D)
            else:
                found[number] = feature_D
        features_ND = torch.stack(list(found.values())) if found else torch.zeros(0, 1)
        self._check_finite(features_ND, [rows[number] for number in found])
        metadata = {"fingerprint": self.fingerprint, "read": list(found), "failed": failed}
        write_checkpoint(self._path(chunk), {"features": features_ND}, {KEY: json.dumps(metadata)})

    def _check_finite(self, features_ND: Tensor, rows: Sequence[FeatureRow]) -> None:
        bad = (~features_ND.isfinite().all(1)).nonzero()[:, 0].tolist()
        if not bad:
            return
        paths = dict.fromkeys(str(self._sample(rows[number]).path) for number in bad)
        more = f" and {len(paths) - FILES_SHOWN} more" if len(paths) > FILES_SHOWN else ""
        raise DataError(
            f"the features of {', '.join(list(paths)[:FILES_SHOWN])}{more} are NaN or Inf; check "
            "the weights of -m, and the videos with vt datasets check"
        )

    def _sample(self, row: FeatureRow) -> Any:
        split = self.plan.split.train if row.training else self.plan.split.validation
        return split.samples[row.number]

    def _features(
        self, rows: Sequence[FeatureRow]
    ) -> Iterator[tuple[int, Tensor | VideoDecodeError]]:
        """The features [D] of each row, or why it cannot be read, with its place."""
        import torch

        pipeline, model = self.plan.model_init.pipeline, self.model
        values = 3 * pipeline.frames * pipeline.crop_size**2
        most = GPU_BATCH_VALUES if self.device.type == "cuda" else CPU_BATCH_VALUES
        size = max(1, min(CHUNK, most // values))
        batches = [rows[first : first + size] for first in range(0, len(rows), size)]
        place = 0
        with closing(prefetch(self._load, batches, self.workers, 2 * self.workers)) as loaded:
            for _, clips in loaded:
                read = [clip for clip in clips if not isinstance(clip, VideoDecodeError)]
                found: Iterator[Tensor] = iter(())
                if read:
                    clip_B3TSS = torch.stack(read).to(self.device, self.dtype)
                    with torch.inference_mode():
                        feature_BD = model.features(clip_B3TSS)  # type: ignore[operator]
                    found = iter(feature_BD.float().cpu().clone())
                for clip in clips:
                    yield place, clip if isinstance(clip, VideoDecodeError) else next(found)
                    place += 1

    def _load(self, row: FeatureRow) -> Tensor | VideoDecodeError:
        """The clip [3,T,S,S] of a row, or why it cannot be read."""
        sample = self._sample(row)
        try:
            if row.view:
                return self.augmented.read(ClipRequest(sample, row.number, 0, row.view)).pixels
            reader = self.center[row.training]
            return next(reader.read(sample, CENTER_VIEW, self.decoders.open).clips)
        except VideoDecodeError as error:
            return error

    def load(self) -> Features:
        """All features from the files, which must be complete."""
        import torch

        rows: list[FeatureRow] = []
        parts, failed = [], {}
        for chunk in self.chunks:
            path = self._path(chunk)
            metadata = json.loads(read_header(path)["__metadata__"][KEY])
            numbers = metadata["read"]
            failed.update(metadata["failed"])
            if numbers:
                rows += [self._rows_of(chunk)[number] for number in numbers]
                parts.append(open_tensors(path)["features"].clone())
        return Features(tuple(rows), torch.cat(parts) if parts else torch.zeros(0, 1), failed)
