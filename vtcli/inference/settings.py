"""What decides how videos are read and scored, except the model: `PredictSettings`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vtcli.errors import UsageError
from vtcli.video import TIMEOUT_SECONDS
from vtcli.weights.load import check_settings

if TYPE_CHECKING:
    from vtcli.video.decode import Backend


@dataclass(frozen=True)
class PredictSettings:
    """The settings of a `Predictor`; raises `UsageError` for values that cannot be.

    topk: classes per head. views: CLIPSxCROPS, `paper` for the published protocol, `auto` for as
    many as settle the first class (`vtcli.inference.adaptive`), None for one center view. device:
    `auto`, `cpu`, `cuda`, ... precision: `auto`, `fp32`, `bf16` or `fp16`. batch_size: views per
    forward pass, by default as many as suit the device. workers: decoding processes, by default one
    per core; 0 decodes in this process. timeout: seconds that decoding one file may take. decoder:
    `auto`, `pyav` or `decord`. label_set: the Kinetics subset that a Kinetics-710 head is
    restricted to. pipeline: a pipeline of the registry instead of the checkpoint's own. strict: a
    video that shows signs of damage is a failure. abstain, coverage: error rate among the answers
    and coverage of the sets of classes that a calibrated model promises
    (`vtcli.inference.decision`). compile: compile the network with `torch.compile`. gpu_resize:
    frames are resized on the GPU, where the pipeline's rule gives the same clip there.
    """

    topk: int = 5
    views: str | None = None
    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    decoder: Backend = "auto"
    label_set: str | None = None
    pipeline: str | None = None
    timeout: float = TIMEOUT_SECONDS
    strict: bool = False
    abstain: float | None = None
    coverage: float | None = None
    compile: bool = False
    gpu_resize: bool = False

    def __post_init__(self) -> None:
        check_settings(self.precision, self.label_set)
        for name, least in (("topk", 1), ("batch_size", 1), ("workers", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name} must be at least {least}, not {value}")
