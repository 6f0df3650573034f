"""What a GPU is given, tried on the CPU: the same clips and scores, each batch read one later."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import tiny
from vtcli.errors import OutOfMemoryError, UsageError
from vtcli.inference import device_batches, scoring
from vtcli.inference import predictor as predictor_module
from vtcli.inference.batching import ViewIndex
from vtcli.inference.device_batches import CpuBatches, GpuBatches, Running, batches_for
from vtcli.inference.predictor import Predictor
from vtcli.inference.stream import ViewStream
from vtcli.video.pipeline import Pipeline, plan_views
from vtcli.video.views import views_from_frames, views_from_parts
from vtcli.weights.registry import load_registry

MODEL = "uniformerv2-nano"
PIPELINES = load_registry().pipelines


class Seen:
    """A network that keeps the clips it is given and returns their means."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype, self.clips = dtype, list[Tensor]()
        self.card = SimpleNamespace(heads=[SimpleNamespace(name="action")])

    def parameters(self, recurse: bool = True) -> Iterator[Tensor]:
        yield torch.zeros(1)

    def __call__(self, clips_B3TSS: Tensor) -> Tensor:
        self.clips.append(clips_B3TSS)
        return clips_B3TSS.mean((1, 2, 3, 4))[:, None]


@pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=PIPELINES.keys())
def test_clips_normalized_on_the_device_are_those_of_the_cpu(pipeline: Pipeline) -> None:
    rng = np.random.default_rng(0)
    side = pipeline.crop_size + 20
    frames = rng.integers(0, 256, (40, side, side + 40, 3), np.uint8)
    views = plan_views(pipeline, len(frames), 25.0, 1, 3)[:2]
    rows = {index: index for index in range(len(frames))}

    def clips() -> Iterator[Tensor]:
        return views_from_frames(frames, rows, pipeline, views)

    net: Any = Seen()
    on_gpu = GpuBatches(net, pipeline)
    given = dict(enumerate(on_gpu.clips_of(clips())))
    dtype = torch.float32 if pipeline.resize == "normalized_bilinear" else torch.uint8
    assert {clip.dtype for clip in given.values()} == {dtype}
    found = on_gpu.submit(given, 3).rows()
    expected = CpuBatches(net).submit(dict(enumerate(clips())), 3).rows()
    gpu, cpu = net.clips
    torch.testing.assert_close(gpu[:2], cpu[:2], atol=1e-4, rtol=0)
    for slot in (0, 1):
        torch.testing.assert_close(found[slot]["action"], expected[slot]["action"])
    resized_there = views_from_parts(
        [(range(40), frames)], range(40), pipeline, views, device="cpu"
    )
    for clip, same in zip(on_gpu.clips_of(resized_there), given.values(), strict=True):
        torch.testing.assert_close(clip, same, atol=0, rtol=0)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("views", ["1x1", "2x3"])
def test_scores_are_those_of_the_cpu(
    ordered: bool, views: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any
) -> None:
    folder = tmp_path_factory.mktemp("videos")
    videos = [str(tiny.video(folder / f"{n}.mp4", 20 + n, seed=n)) for n in range(5)]
    (folder / "2.mp4").write_bytes(b"no video")
    with Predictor(MODEL, precision="fp32", views=views, batch_size=4) as one:
        expected = dict(one.predict_part(videos, range(5), ordered=ordered))
        monkeypatch.setattr(predictor_module, "batches_for", GpuBatches)
        monkeypatch.setattr(predictor_module, "resize_device", lambda settings: "cpu")
        found = dict(one.predict_part(videos, range(5), ordered=ordered))
    assert list(found) == list(range(5)) or not ordered
    assert found.keys() == expected.keys()
    for number in (0, 1, 3, 4):
        a, b = (outcomes[number].view_logits["action"] for outcomes in (found, expected))
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_resizing_on_a_gpu_needs_one(tmp_path: Path) -> None:
    video = tiny.video(tmp_path / "a.mp4", 20)
    with (
        Predictor(MODEL, device="cpu", gpu_resize=True) as one,
        pytest.raises(UsageError, match="--gpu-resize is for NVIDIA and AMD GPUs, not cpu; leave"),
    ):
        list(one.predict([video]))


def test_a_batch_is_read_when_the_next_is_under_way(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any
) -> None:
    steps: list[str] = []

    class Recorded(GpuBatches):
        def submit(self, clips: Mapping[int, Tensor], slots: int | None) -> Running:
            number = sum(step.startswith("submit") for step in steps)
            running = super().submit(clips, slots)
            steps.append(f"submit {number}")

            class Reading:
                def rows(self) -> Any:
                    steps.append(f"read {number}")
                    return running.rows()

            return Reading()

    folder = tmp_path_factory.mktemp("videos")
    videos = [str(tiny.video(folder / f"{n}.mp4", 20, seed=n)) for n in range(3)]
    monkeypatch.setattr(predictor_module, "batches_for", Recorded)
    with Predictor(MODEL, precision="fp32", batch_size=1) as one:
        assert [outcome.failed for outcome in one.predict(videos)] == [False] * 3
    assert steps == ["submit 0", "submit 1", "read 0", "submit 2", "read 1", "read 2"]


@pytest.mark.parametrize("kind", [CpuBatches, GpuBatches])
def test_memory_that_cannot_be_pinned_is_out_of_memory(kind: Any, monkeypatch: Any) -> None:
    def full(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("CUDA error: out of memory")

    net: Any = Seen()
    on_device = kind(net) if kind is CpuBatches else kind(net, next(iter(PIPELINES.values())))
    for module in (device_batches, scoring):
        monkeypatch.setattr(module, "fill_batch", full)
    with pytest.raises(OutOfMemoryError, match="-b 2"):
        on_device.submit({0: torch.zeros(1), 3: torch.zeros(1)}, 4)


def test_what_did_not_fit_is_given_back_before_less_is_tried() -> None:
    """With activations of the failed batch still there, the halves would not fit either."""
    activations: list[weakref.ref[Tensor]] = []
    alive_at_retry: list[bool] = []

    class Full(Seen):
        def __call__(self, clips_B3TSS: Tensor) -> Tensor:
            alive_at_retry.extend(one() is not None for one in activations)
            activation = clips_B3TSS.float() + 1
            if len(clips_B3TSS) > 1:
                activations.append(weakref.ref(activation))
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().__call__(activation)

    net: Any = Full()
    pipeline = next(iter(PIPELINES.values()))
    stream = ViewStream(GpuBatches(net, pipeline), Nothing(), 4, may_shrink=True)
    clips = {slot: torch.zeros(3, 2, 8, 8) for slot in range(4)}
    views = {slot: ViewIndex(slot, 0) for slot in range(4)}
    gc.disable()
    try:
        scored = [*stream._score(clips, views), *stream._finish(0)]
    finally:
        gc.enable()
    assert [len(one.logits) for one in scored] == [4]
    assert alive_at_retry
    assert not any(alive_at_retry)


class Nothing:
    """A loader without videos."""

    ordered, waited, patience = True, 0.0, 1.0

    def __iter__(self) -> Any:
        yield from ()


def test_a_network_on_a_cpu_is_not_given_to_a_gpu() -> None:
    net: Any = Seen()
    assert isinstance(batches_for(net, next(iter(PIPELINES.values()))), CpuBatches)
