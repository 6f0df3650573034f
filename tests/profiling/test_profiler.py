"""Counts agree with those measured on the upstream networks; times and memory are plausible.

Expected counts are those of the four specifications, written out here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from vtcli import models
from vtcli.errors import OutOfMemoryError, UnknownModelError, UsageError, VideoDecodeError
from vtcli.profiling import benchmark, profiler
from vtcli.profiling.flops import BETWEEN, count
from vtcli.profiling.profiler import find_model, profile, select_models
from vtcli.profiling.results import ProfileSettings, VideoTiming
from vtcli.weights.convert import convert
from vtcli.weights.model_config import model_config
from vtcli.weights.registry import Checkpoint, load_registry

# Those with an upstream network, on which they were measured.
ROWS = [r for r in load_registry(extra=()).checkpoints.values() if r.dataset != "motion8"]

# Parameters by model and classes: exact, or in millions with three decimals.
PARAMS: dict[tuple[str, int], int | float] = {
    ("uniformerv2-b", 400): 114.552,
    ("uniformerv2-b", 600): 114.706,
    ("uniformerv2-b", 700): 114.783,
    ("uniformerv2-b", 710): 114.791,
    ("uniformerv2-b", 339): 114.505,
    ("uniformerv2-l", 400): 354.100,
    ("uniformerv2-l", 710): 354.417,
    ("uniformerv2-l", 200): 353.895,
    ("uniformerv2-l336", 400): 354.427,
    ("uniformerv2-l336-frozen", 400): 354.426,
    ("uniformerv2-b-local", 174): 162.993,
    ("uniformerv2-l-local", 174): 573.950,
    ("videoswin-t", 400): 28_158_070,
    ("videoswin-s", 400): 49_816_678,
    ("videoswin-s", 710): 50_055_068,
    ("videoswin-b", 400): 88_048_984,
    ("videoswin-b", 600): 88_253_984,
    ("videoswin-b-w16", 174): 88_834_038,
    ("videoswin-l", 400): 196_953_916,
    ("videoswin-l", 700): 197_415_016,
    ("vivit-b", 400): 88.954,
    ("vivit-b-fe", 400): 115.063,
    ("vivit-l-fe", 400): 606.828,
    ("vivit-l-fe", 600): 607.033,
    ("vivit-l-fe", 397): 354.900,
    ("xvit-b", 600): 93_944_664,
    ("xvit-b", 174): 93_617_070,
}
# For numbers of classes that were not measured: the input width of the classifier.
FEATURES = {"uniformerv2-l": 1024, "uniformerv2-l336": 1024, "videoswin-b-w16": 1024}
FEATURES["uniformerv2-l336-frozen"] = 1024

# GMACs of one view by model and frames, as papers count them.
GMACS = {
    ("uniformerv2-b", 8): 148.1,
    ("uniformerv2-l", 8): 665.6,
    ("uniformerv2-l", 16): 1331.2,
    ("uniformerv2-l", 32): 2662.4,
    ("uniformerv2-l336", 8): 1567.0,
    ("uniformerv2-l336", 32): 6267.8,
    ("uniformerv2-l336", 64): 12535.6,
    ("uniformerv2-l336-frozen", 8): 1567.0,
    ("uniformerv2-l336-frozen", 32): 6267.8,
    ("uniformerv2-b-local", 16): 187.2,
    ("uniformerv2-b-local", 32): 374.4,
    ("uniformerv2-l-local", 16): 858.2,
    ("uniformerv2-l-local", 32): 1716.2,
    ("videoswin-t", 32): 87.76,
    ("videoswin-s", 32): 165.68,
    ("videoswin-b", 32): 281.33,
    ("videoswin-b-w16", 32): 320.36,
    ("videoswin-l", 32): 603.27,
    ("vivit-b", 32): 451.5,
    ("vivit-b-fe", 32): 283.3,
    ("vivit-l-fe", 32): 992.5,
    ("xvit-b", 8): 140.57,
    ("xvit-b", 16): 281.13,
}
GMACS_OF_ID = {"vivit-l-fe.epic100-32f": 988.2}


def expected_params(row: Checkpoint) -> int | float:
    measured = PARAMS.get((row.model, row.num_classes))
    if measured is not None:
        return measured
    (classes, base) = next((c, n) for (model, c), n in PARAMS.items() if model == row.model)
    more = (row.num_classes - classes) * (FEATURES[row.model] + 1)
    return base + more if isinstance(base, int) else base + more / 1e6


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_counts_equal_those_of_the_upstream_networks(row: Checkpoint) -> None:
    architecture, config = model_config(row.id)
    cost = count(architecture.name, config)
    params = expected_params(row)
    if isinstance(params, int):
        assert cost.params == params
    else:
        assert cost.params / 1e6 == pytest.approx(params, abs=6e-4)
    assert cost.macs_paper is not None
    gmacs = GMACS_OF_ID.get(row.id) or GMACS[row.model, row.frames]
    assert cost.macs_paper / 1e9 == pytest.approx(gmacs, rel=1e-3)
    # The implementation skips work and adds none but a few index sums.
    assert 0.9 < cost.macs_executed / cost.macs_paper < 1.0001
    assert sum(block.macs for block in cost.blocks) == pytest.approx(cost.macs_executed, rel=1e-9)
    assert sum(block.params for block in cost.blocks) == cost.params


def test_the_reported_cost_is_shown_with_its_difference_and_known_errors() -> None:
    names = ["videoswin-b", "videoswin-s.k710-in1k-32f-mm", "xvit-b.k600-16f"]
    swin_b, swin_s, xvit = (p.to_dict() for p in profile(names).profiles)
    assert swin_b["reported"]["gmacs_per_view"] == 281.6
    difference = 100 * (281.33 / 281.6 - 1)
    assert swin_b["reported"]["difference_percent"] == pytest.approx(difference, abs=0.01)
    assert swin_s["reported"]["difference_percent"] is None
    assert "copied from Swin-L" in swin_s["reported"]["note"]
    assert xvit["views"] == "1x3"
    # Measured upstream, all three views.
    assert xvit["macs_paper"]["per_video"] == pytest.approx(843.4e9, rel=1e-3)


def test_flops_are_twice_the_macs_in_both_counts() -> None:
    report = profile(["vivit-b"])
    table = report.profiles[0].to_dict()
    for form in ("paper", "executed"):
        for scope in ("per_view", "per_video"):
            assert table[f"flops_{form}"][scope] == 2 * table[f"macs_{form}"][scope]
    assert table["macs_executed"]["per_view"] < table["macs_paper"]["per_view"]


def test_a_published_size_without_a_checkpoint_is_counted_too() -> None:
    result = profile(["videoswin-l384"]).profiles[0]
    assert result.cost.params == 199_999_516
    assert result.cost.macs_paper == pytest.approx(2106.4e9, rel=1e-3)
    assert result.to_dict()["reported"]["gmacs_per_view"] is None


def test_names_patterns_and_defaults_select_each_model_once() -> None:
    assert [s.id for s in select_models(["xvit"], ["xvit-b.k600*"])] == ["xvit-b.k600-16f"]
    assert {s.arch for s in select_models()} == {"uniformerv2", "videoswin", "vivit", "xvit"}
    assert len(select_models(everything=True)) == len(load_registry(extra=()).checkpoints)
    with pytest.raises(UnknownModelError, match="videoswin-t"):
        select_models(["videoswin-tt"])
    with pytest.raises(UnknownModelError):
        select_models(patterns=["nothing*"])


@dataclass(frozen=True)
class StrangeConfig:
    image_size: int = 4
    num_frames: int = 2
    width: int = 5


class Strange(nn.Module):
    """Two linear layers: 96 -> 5 and 5 -> 7."""

    def __init__(self, config: StrangeConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList([nn.Linear(96, config.width), nn.Linear(config.width, 7)])
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, clip: Tensor) -> Tensor:
        x = clip.flatten(1)
        for layer in self.layers:
            x = layer(x)
        return x

    def init_weights(self) -> None:
        for parameter in self.parameters():
            nn.init.ones_(parameter)


@pytest.fixture
def strange(monkeypatch: pytest.MonkeyPatch) -> str:
    """A model of an outside architecture that does not state how papers count its MACs."""
    monkeypatch.setattr(models, "_registered", {})
    architecture = models.Architecture(
        name="strange",
        title="Strange",
        presets={"strange-s": StrangeConfig()},
        build=Strange,
        infer_config=lambda shapes, hints: StrangeConfig(),
        layouts={},
    )
    models.register_architecture(architecture)
    return "strange-s"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "RUN_SECONDS", 0.0)
    monkeypatch.setattr(benchmark, "MATMUL_SECONDS", 0.0)
    monkeypatch.setattr(benchmark, "MATMUL_SIZE", 64)


def on_cpu(*precisions: str, **changes: Any) -> ProfileSettings:
    """Settings that time on the CPU."""
    return ProfileSettings(device="cpu", precisions=precisions, timed=True, **changes)


def test_an_architecture_without_a_published_count_is_counted_as_executed(strange: str) -> None:
    result = profile([find_model(strange)], on_cpu("fp32")).profiles[0]
    assert result.cost.macs_paper is None
    assert result.cost.macs_executed == 96 * 5 + 5 * 7
    assert result.cost.largest_matmul == (1, 96, 5)
    assert result.timings[0].mfu is None
    assert [(b.name, b.params, b.macs) for b in result.cost.blocks] == [
        ("layers.0", 96 * 5 + 5, 96 * 5),
        ("layers.1", 5 * 7 + 7, 5 * 7),
        (BETWEEN, 3, 0),
    ]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a tiny checkpoint whose weights do not exist."""
    path = tiny.registry_file(tmp_path / "own.toml", tiny.local_source(tmp_path / "none.pth"))
    monkeypatch.setenv("VT_REGISTRY", str(path))
    return "tiny.k400-8f"


def test_each_precision_and_batch_size_is_timed_without_weights(model: str) -> None:
    options = on_cpu("fp32", "bf16", batch_sizes=(1, 3), blocks=True)
    timings = profile([find_model(model)], options).profiles[0].timings
    tried = [(t.precision, t.batch_size) for t in timings]
    assert tried == [("fp32", 1), ("fp32", 3), ("bf16", 1), ("bf16", 3)]
    cost = count(find_model(model).arch, find_model(model).config)
    for t in timings:
        assert t.runs >= 5
        assert 0 < t.latency_median <= t.latency_p95
        speed = t.to_dict(views=12)
        assert speed["clips_per_second"] == pytest.approx(t.batch_size / t.latency_median)
        assert speed["videos_per_second"] == pytest.approx(t.batch_size / t.latency_median / 12)
        assert set(t.block_seconds) == {block.name for block in cost.blocks}
        done = cost.macs_executed * t.batch_size / t.latency_median
        assert t.hfu == pytest.approx(done / t.peak_matmul_macs_per_s)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")
def test_peak_memory_is_what_a_forward_pass_takes() -> None:
    memory = benchmark.PeakMemory(torch.device("cpu"))
    memory.reset()
    torch.ones(2**24).sum()
    peak = memory.peak()
    assert peak is not None
    assert 0.9 * 2**26 < peak < 1.5 * 2**26


def test_a_converted_file_is_profiled_with_its_own_weights(model: str, tmp_path: Path) -> None:
    src, dst = tiny.official_file(tmp_path / "a.pyth"), tmp_path / "a.safetensors"
    convert(src, dst, model=model)
    result = profile([find_model(str(dst))], on_cpu("fp32")).profiles[0]
    assert result.model.file is not None
    assert result.cost.params == sum(t.numel() for t in tiny.tensors().values())
    assert len(result.timings) == 1


def test_a_batch_beyond_memory_names_the_largest_that_fits_and_the_rest_is_measured(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "available_bytes", lambda: 350)
    init = benchmark.Benchmark.__init__

    def with_known_need(self: benchmark.Benchmark, *args: Any) -> None:
        init(self, *args)
        self.bytes_per_clip = 100

    monkeypatch.setattr(benchmark.Benchmark, "__init__", with_known_need)
    options = on_cpu("fp32", batch_sizes=(8, 2))
    result = profile([find_model(model)], options).profiles[0]
    assert [t.batch_size for t in result.timings] == [2]
    assert [str(failure) for failure in result.failures] == [
        "tiny.k400-8f: a batch of 8 in fp32 does not fit into the memory of cpu; "
        "the largest that does, by halving, is -b 2"
    ]


@pytest.mark.parametrize(("limit", "words"), [(3, "is -b 2"), (0, "nor does a smaller one")])
def test_a_failed_allocation_is_halved_until_it_fits(
    strange: str, limit: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Strange.forward

    def small_memory(self: Strange, clip: Tensor) -> Tensor:
        if len(clip) > limit and clip.device.type != "meta":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
        return forward(self, clip)

    monkeypatch.setattr(Strange, "forward", small_memory)
    monkeypatch.setattr(benchmark.Benchmark, "_check_memory", lambda self, batch_size: None)
    options = on_cpu("fp32", batch_sizes=(8,))
    (failure,) = profile([find_model(strange)], options).profiles[0].failures
    assert isinstance(failure, OutOfMemoryError)
    assert words in str(failure)


def test_an_unsupported_precision_is_refused_before_anything_runs(model: str) -> None:
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        profile([find_model(model)], on_cpu("fp32", "fp16"))


def test_a_video_is_timed_from_file_to_prediction(model: str, tmp_path: Path) -> None:
    clip = tiny.video(tmp_path / "clip.mp4", frames=50)
    options = on_cpu("fp32", video=clip)
    report = profile([find_model(model)], options)
    assert report.decoding is not None
    assert report.decoding.decoded_fps > 0
    (time,) = report.profiles[0].video_timings
    (timed,) = report.profiles[0].timings
    assert time.compute_seconds == pytest.approx(12 / timed.clips_per_second)
    assert time.realtime_factor == pytest.approx(2.0 / (time.decode_seconds + time.compute_seconds))
    with pytest.raises(VideoDecodeError):
        profile([find_model(model)], ProfileSettings(video=tmp_path / "none.mp4"))


def test_the_longer_of_decoding_and_computing_is_the_bound() -> None:
    assert VideoTiming("fp32", 1, 2.0, 1.0, 1.0).bound == "decode"
    assert VideoTiming("fp32", 1, 1.0, 2.0, 1.0).bound == "compute"


@pytest.mark.slow
def test_a_compiled_model_is_timed(model: str) -> None:
    options = on_cpu("fp32", compiled=True)
    (timed,) = profile([find_model(model)], options).profiles[0].timings
    assert timed.compiled


@pytest.mark.gpu
def test_a_gpu_reports_peak_memory(model: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    options = ProfileSettings(device="cuda", precisions=("bf16",), timed=True)
    (timed,) = profile([find_model(model)], options).profiles[0].timings
    assert timed.peak_bytes is not None
    assert timed.peak_bytes > 0
    assert profiler.resolve_device("auto").type == "cuda"
