"""Training writes files that can be used on their own; stopping and resuming changes nothing."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import vtcli
from tests.evaluation.harness import class_folders
from tests.training.harness import (
    STEADY,
    TINY,
    Killed,
    bright_folders,
    kill_after,
    losses,
    model_file,
    plan_for,
    recipe_of,
    same,
    trainer,
    weights,
)
from vtcli.data.train_loader import ClipRequest, TrainClip
from vtcli.errors import DataError, ShapeError, UsageError
from vtcli.models.recipe import Recipe
from vtcli.runtime.distributed import Group
from vtcli.training.artifacts import missing_packages
from vtcli.training.checkpoint import FILE, FORMAT, KEY, CheckpointSlot, check_format, find_state
from vtcli.training.plan import resolve_hflip
from vtcli.training.recipes import find_recipe, list_recipes, override
from vtcli.training.run_directory import open_run_directory
from vtcli.weights.checkpoint import read_card, write_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("data") / "data", 5, ["a", "b", "c"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_file(tmp_path_factory.mktemp("model") / "tiny.safetensors", "videoswin")


@pytest.mark.parametrize("arch", sorted(TINY))
def test_each_architecture_is_trained_by_its_recipe(arch: str, data: Path, tmp_path: Path) -> None:
    start = model_file(tmp_path / "start.safetensors", arch)
    plan = plan_for(data, start, recipe_of(arch))
    run = tmp_path / "run"
    assert trainer(run, plan).fit() == "done"
    card = read_card(run / "best.safetensors")
    assert card.heads[0].labels == ("a", "b", "c")
    assert card.pipeline == plan.model_init.pipeline
    before, after = weights(start), weights(run / "best.safetensors")
    assert after["head.weight"].shape[0] == 3
    changed = [n for n in before if "head" not in n and not torch.equal(before[n], after[n])]
    assert len(changed) > len(before) / 2


def test_the_trained_file_predicts(data: Path, model: Path, tmp_path: Path) -> None:
    trainer(tmp_path, plan_for(data, model)).fit()
    video = next(data.rglob("*.mp4"))
    predicted = vtcli.predict(video, model=tmp_path / "best.safetensors").to_dict()
    assert {found["label"] for found in predicted["results"][0]["predictions"]} == {"a", "b", "c"}
    with (tmp_path / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(math.isfinite(float(row["train_loss"])) for row in rows)


def test_it_learns_an_easy_dataset(model: Path, tmp_path: Path) -> None:
    recipe = replace(STEADY, epochs=6, lr=5e-3, aa="")
    data = bright_folders(tmp_path / "data")
    maker = trainer(tmp_path / "run", plan_for(data, model, recipe))
    maker.fit()
    assert maker.position.history[-1]["val_top1"] == 1.0


# --- stopping and resuming ------------------------------------------------------------------------

FULL = replace(
    STEADY,
    epochs=3,
    mixup=0.3,
    cutmix=0.5,
    reprob=0.3,
    smoothing=0.1,
    drop=0.3,
    drop_path=0.2,
    model_ema=True,
    clip_grad=1.0,
    grad_accum_steps=2,
    batch_size=2,
)


@pytest.mark.slow
@pytest.mark.parametrize(("killed_after", "saved"), [(1, 0), (4, 3), (6, 4)])
def test_a_killed_training_ends_with_the_same_weights(
    killed_after: int, saved: int, data: Path, model: Path, tmp_path: Path
) -> None:
    plan = plan_for(data, model, FULL, save_every=2)
    whole = trainer(tmp_path / "whole", plan)
    whole.fit()
    broken = trainer(tmp_path / "broken", plan)
    with pytest.raises(Killed):
        broken.fit(kill_after(killed_after, broken))
    resumed = trainer(tmp_path / "broken", plan, resume=True)
    assert resumed.position.steps_done == saved
    resumed.fit()
    for name in ("best.safetensors", "last.safetensors"):
        one, other = (weights(tmp_path / run / name) for run in ("whole", "broken"))
        assert same(one, other)
    assert same(*(weights(tmp_path / run / FILE) for run in ("whole", "broken")))
    states = [find_state(tmp_path / run) for run in ("whole", "broken")]
    assert states[0]
    assert states[1]
    timed = ("epoch_time", "data_time")
    rows = [
        [{k: v for k, v in r.items() if k not in timed} for r in k.position.history] for k in states
    ]
    assert rows[0] == rows[1]


def test_a_stopped_and_resumed_training_ends_with_the_same_weights(
    data: Path, model: Path, tmp_path: Path
) -> None:
    plan = plan_for(data, model, FULL)
    trainer(tmp_path / "whole", plan).fit()
    stopped = trainer(tmp_path / "stopped", plan)

    def terminate(progress: object) -> None:
        if stopped.position.steps_done == 4:
            os.kill(os.getpid(), 15)

    assert stopped.fit(terminate) == "terminated"
    resumed = trainer(tmp_path / "stopped", plan, resume=True)
    assert resumed.position.steps_done == 5  # the step after the signal was finished
    assert resumed.fit() == "done"
    last = [weights(tmp_path / run / "last.safetensors") for run in ("whole", "stopped")]
    assert same(*last)


def test_ctrl_c_saves_in_the_middle_of_an_epoch_as_sigterm_does(
    data: Path, model: Path, tmp_path: Path
) -> None:
    maker = trainer(tmp_path, plan_for(data, model, FULL))

    def interrupt(progress: object) -> None:
        if maker.position.steps_done == 4:
            signal.raise_signal(signal.SIGINT)

    assert maker.fit(interrupt) == "interrupted"
    saved = find_state(tmp_path)
    assert saved
    assert (saved.position.epoch, saved.position.step) == (1, 2)


def test_a_second_ctrl_c_ends_at_once(data: Path, model: Path, tmp_path: Path) -> None:
    maker = trainer(tmp_path, plan_for(data, model))

    def interrupt(progress: object) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        maker.fit(interrupt)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_the_caller_ignores_stays_ignored(
    data: Path, model: Path, tmp_path: Path
) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        maker = trainer(tmp_path, plan_for(data, model))
        assert maker.fit(lambda progress: signal.raise_signal(signal.SIGINT)) == "done"
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_number_of_threads_changes_nothing(data: Path, model: Path, tmp_path: Path) -> None:
    for workers in (1, 4):
        plan = plan_for(data, model, replace(FULL, epochs=1), workers=workers)
        trainer(tmp_path / str(workers), plan).fit()
    one, four = (weights(tmp_path / n / "last.safetensors") for n in ("1", "4"))
    assert same(one, four)


def test_the_previous_state_is_used_where_the_latest_is_damaged(
    data: Path, model: Path, tmp_path: Path
) -> None:
    plan = plan_for(data, model, save_every=1)
    trainer(tmp_path, plan).fit()
    before = find_state(tmp_path)
    CheckpointSlot(tmp_path, FILE).path.write_bytes(b"cut off")
    after = find_state(tmp_path)
    assert before
    assert after
    assert (before.position.epoch, after.position.epoch) == (2, 1)
    CheckpointSlot(tmp_path, FILE).previous.write_bytes(b"cut off too")
    with pytest.raises(DataError, match="is damaged; start again"):
        find_state(tmp_path)


def test_training_stops_early_without_improvement(data: Path, model: Path, tmp_path: Path) -> None:
    recipe = replace(STEADY, epochs=9, lr=0.0, warmup_lr=0.0)
    maker = trainer(tmp_path, plan_for(data, model, recipe, patience=2))
    assert maker.fit() == "early"
    assert len(maker.position.history) == 3


# --- equalities -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["videoswin", "uniformerv2"])
def test_accumulated_gradients_equal_those_of_larger_batches(
    arch: str, data: Path, tmp_path: Path
) -> None:
    start = model_file(tmp_path / "start.safetensors", arch)
    whole = replace(STEADY, epochs=17, freeze_bn=True)
    halves = replace(whole, batch_size=2, grad_accum_steps=2)
    curves = [
        losses(trainer(tmp_path / name, plan_for(data, start, recipe)))
        for name, recipe in (("whole", whole), ("halves", halves))
    ]
    assert len(curves[0]) == 51
    assert max(abs(a - b) for a, b in zip(*curves, strict=True)) < 1e-4


@pytest.mark.parametrize("arch", ["videoswin", "uniformerv2"])
def test_recomputed_blocks_give_the_same_weights(arch: str, data: Path, tmp_path: Path) -> None:
    start = model_file(tmp_path / "start.safetensors", arch)
    recipe = replace(STEADY, epochs=1, drop=0.3, drop_path=0.3)
    plans = [plan_for(data, start, replace(recipe, grad_checkpointing=on)) for on in (False, True)]
    makers = [trainer(tmp_path / str(n), plan) for n, plan in enumerate(plans)]
    curves = [losses(maker) for maker in makers]
    assert max(abs(a - b) for a, b in zip(*curves, strict=True)) < 1e-6
    # The BatchNorm statistics of UniFormerV2 are updated once per batch.
    first, again = (maker.model.state_dict() for maker in makers)
    assert max(float((first[name] - again[name]).abs().max()) for name in first) < 1e-6


def test_a_step_without_clips_does_not_change_batch_statistics(data: Path, tmp_path: Path) -> None:
    start = model_file(tmp_path / "start.safetensors", "uniformerv2")
    maker = trainer(tmp_path, plan_for(data, start))
    maker.train_step.group = Group(size=2)  # the other process has clips
    maker.model.train()
    before = {name: buffer.clone() for name, buffer in maker.model.named_buffers()}
    maker.train_step.forward_backward([], [], seed=0)
    assert any("running_mean" in name for name in before)
    assert same(before, dict(maker.model.named_buffers()))
    assert all(module.training for module in maker.model.modules())


def test_cutmix_mixes_pixels_and_labels_by_the_same_fraction(
    data: Path, model: Path, tmp_path: Path
) -> None:
    maker = trainer(tmp_path, plan_for(data, model, replace(STEADY, cutmix=1.0, mixup=0.0)))
    samples = maker.plan.split.train.samples
    first = next(s for s in samples if s.labels == (0,))
    second = next(s for s in samples if s.labels == (1,))
    seen = set()
    for seed in range(20):
        read = [
            (
                ClipRequest(sample, number, 0),
                TrainClip(torch.full((3, 4, 32, 32), float(number)), False),
            )
            for number, sample in enumerate((first, second))
        ]
        clips, target_BK = maker.train_step.inputs(read, seed)
        assert float(clips[0].mean()) == pytest.approx(float(target_BK[0, 1]), abs=1e-3)
        assert torch.equal(clips[0], clips[0][:, :1].expand_as(clips[0]))
        seen.add(round(float(target_BK[0, 1]), 2))
    assert len(seen) > 10


# --- recipes --------------------------------------------------------------------------------------


def test_learning_rates_are_scaled_to_the_clips_of_a_step(data: Path, model: Path) -> None:
    linear = plan_for(data, model, Recipe(batch_size=4, grad_accum_steps=4, lr_base_size=64))
    assert linear.lr_scale == 16 / 64
    root = replace(linear, recipe=replace(linear.recipe, lr_base_scale="sqrt"), processes=2)
    assert root.lr_scale == math.sqrt(32 / 64)


def test_the_learning_rate_warms_up_linearly_and_falls_as_a_cosine(
    data: Path, model: Path, tmp_path: Path
) -> None:
    recipe = replace(STEADY, epochs=4, warmup_epochs=1, warmup_lr=1e-4, min_lr=1e-5, lr=1e-2)
    maker = trainer(tmp_path, plan_for(data, model, recipe))
    seen = []
    for step in range(12):
        maker.train_step.schedule.step_update(step)
        seen.append(maker.train_step.lr)
    assert seen[:4] == pytest.approx([1e-4, 3.4e-3, 6.7e-3, 1e-2])
    wave = [1e-5 + (1e-2 - 1e-5) * (1 + math.cos(math.pi * n / 9)) / 2 for n in range(9)]
    assert seen[3:] == pytest.approx(wave)


def test_layer_decay_lowers_the_rate_with_the_distance_from_the_head(
    tmp_path: Path, data: Path
) -> None:
    start = model_file(tmp_path / "start.safetensors", "vivit")
    maker = trainer(tmp_path, plan_for(data, start, replace(STEADY, layer_decay=0.5)))
    factor = {}
    groups = maker.train_step.optimizer.param_groups
    places = iter(maker.train_step.names)
    for group in groups:
        for _ in group["params"]:
            factor[next(places)] = group["lr_scale"]
    assert factor["head.weight"] == factor["encoder.norm.weight"] == 1
    assert factor["encoder.blocks.1.norm1.weight"] == 0.5
    assert factor["encoder.blocks.0.norm1.weight"] == 0.25
    assert factor["patch_embed.weight"] == factor["encoder.pos_embed"] == 0.125


def test_parameter_groups_of_video_swin_equal_upstreams(
    model: Path, data: Path, tmp_path: Path
) -> None:
    maker = trainer(tmp_path, plan_for(data, model, recipe_of("videoswin")))
    places, found = iter(maker.train_step.names), {}
    for group in maker.train_step.optimizer.param_groups:
        for _ in group["params"]:
            found[next(places)] = group["lr_scale"], group["weight_decay"]
    assert found["head.weight"] == found["head.bias"] == (1.0, 0.05)
    assert found["stages.0.blocks.0.mlp.fc1.bias"] == (0.1, 0.05)
    assert found["stages.0.blocks.0.norm1.weight"] == (0.1, 0.0)
    assert found["stages.0.blocks.0.attn.bias_table"] == (0.1, 0.0)


@pytest.mark.parametrize(
    ("trainable", "changed"),
    [("head", {"head"}), ("last-1-blocks", {"head", "norm", "stages.1"})],
)
def test_only_trainable_layers_change(
    trainable: str, changed: set[str], data: Path, model: Path, tmp_path: Path
) -> None:
    recipe = replace(STEADY, epochs=1, trainable=trainable, weight_decay=0.1)
    trainer(tmp_path, plan_for(data, model, recipe)).fit()
    before, after = weights(model), weights(tmp_path / "last.safetensors")
    names = [n for n in before if "head" in n or not torch.equal(before[n], after[n])]
    parts = {n.split(".blocks")[0] if "stages" in n else n.split(".")[0] for n in names}
    assert (
        parts
        - {"stages.0.merge.norm.weight", "stages.0.merge.norm.bias"}
        - {"stages.0.merge.reduction.weight"}
        == changed
    )


def test_a_frozen_batch_norm_keeps_its_statistics(data: Path, tmp_path: Path) -> None:
    start = model_file(tmp_path / "start.safetensors", "uniformerv2")
    for frozen in (True, False):
        recipe = replace(STEADY, epochs=1, freeze_bn=frozen)
        trainer(tmp_path / str(frozen), plan_for(data, start, recipe)).fit()
        kept = weights(tmp_path / str(frozen) / "last.safetensors")
        means = [t for name, t in kept.items() if name.endswith("running_mean")]
        assert means
        assert all(bool((mean == 0).all()) is frozen for mean in means)


def test_recipes_are_chosen_by_architecture_and_labels() -> None:
    assert find_recipe("xvit", False) == ("xvit", list_recipes()["xvit"])
    assert find_recipe("xvit", True)[0] == "xvit-something"
    assert find_recipe("xvit", True, "vivit")[0] == "vivit"
    with pytest.raises(UsageError, match="unknown recipe 'xvt'"):
        find_recipe("xvit", False, "xvt")


def test_fewer_epochs_have_a_shorter_warmup() -> None:
    assert override(list_recipes()["xvit"], {"epochs": 6}).warmup_epochs == 1
    assert override(list_recipes()["xvit"], {"epochs": 6, "warmup_epochs": 2.0}).warmup_epochs == 2


def test_recipes_for_labels_with_left_and_right_never_flip() -> None:
    assert all(r.hflip == 0 for name, r in list_recipes().items() if name.endswith("-something"))
    assert resolve_hflip(Recipe(hflip=0.5), True, None).hflip == 0
    with pytest.raises(UsageError, match=r"--hflip 0\.5 would turn left into right"):
        resolve_hflip(Recipe(), True, 0.5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 0}, "--epochs 0 is below 1"),
        ({"lr": -1.0}, "--lr -1.0 is below 0"),
        ({"smoothing": 1.5}, "--smoothing 1.5 is not between 0 and 1"),
        ({"amp_dtype": "fp8"}, "--amp-dtype must be one of off, bf16, fp16"),
        ({"scale": (1.0, 0.5)}, "--scale 1.0 0.5 is not a range"),
        ({"aug_repeats": 3}, "--batch-size 8 is not a multiple of --aug-repeats 3"),
        ({"trainable": "last-blocks"}, "--trainable must be full, head or last-N-blocks"),
    ],
)
def test_recipes_out_of_range_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Recipe(**changes)  # type: ignore[arg-type]


def test_repeated_augmentation_samples_several_clips_of_a_video(
    data: Path, model: Path, tmp_path: Path
) -> None:
    recipe = replace(STEADY, aug_repeats=2, epochs=1)
    maker = trainer(tmp_path, plan_for(data, model, recipe))
    first = next(maker.requests())
    assert [(d.number == first[0].number, d.repeat) for d in first[:2]] == [(True, 0), (True, 1)]
    maker.fit()
    assert maker.position.history[0]["train_clips"] == 24


# --- failures -------------------------------------------------------------------------------------


def broken_data(data: Path, folder: Path, count: int) -> Path:
    """A copy of the videos of which `count` per class cannot be read."""
    shutil.copytree(data, folder)
    for home in folder.iterdir():
        for video in sorted(home.iterdir())[:count]:
            video.write_bytes(b"no video at all")
    return folder


def test_failed_videos_are_counted_and_excluded_from_the_mean(
    data: Path, model: Path, tmp_path: Path
) -> None:
    root = broken_data(data, tmp_path / "data", 2)
    maker = trainer(tmp_path / "run", plan_for(root, model))
    maker.fit()
    for row in maker.position.history:
        assert row["failed_videos"] + row["val_failed_videos"] == 6
        assert row["train_clips"] + row["failed_videos"] == 12
        assert 0.5 < row["train_loss"] < 2.5
    named = (tmp_path / "run" / "failed_videos.txt").read_text().splitlines()
    assert len(named) == maker.position.history[0]["failed_videos"]
    assert all(str(root) in line for line in named)


def test_an_epoch_without_a_readable_video_ends_the_training(
    data: Path, model: Path, tmp_path: Path
) -> None:
    root = broken_data(data, tmp_path / "data", 5)
    plan = plan_for(root, model)
    with pytest.raises(DataError, match="none of the 12 videos of epoch 1 could be read"):
        trainer(tmp_path / "run", plan).fit()
    # With the videos restored, training resumes.
    shutil.copytree(data, root, dirs_exist_ok=True)
    assert trainer(tmp_path / "run", plan, resume=True).fit() == "done"


def test_a_nan_loss_names_step_and_videos(data: Path, model: Path, tmp_path: Path) -> None:
    plan = plan_for(data, model, save_every=1)
    maker = trainer(tmp_path, plan)

    def corrupt(progress: object) -> None:
        if maker.position.steps_done == 4:
            with torch.no_grad():
                maker.model.head.weight.fill_(math.nan)  # type: ignore[union-attr, operator]

    with pytest.raises(DataError, match=r"step 2 of epoch 2; .*\.mp4"):
        maker.fit(corrupt)
    state = find_state(tmp_path)
    assert state


def test_fp16_that_always_overflows_is_an_error(data: Path, model: Path, tmp_path: Path) -> None:
    maker = trainer(tmp_path, plan_for(data, model))
    maker.train_step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-12)
    next(maker.model.parameters()).register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(DataError, match=r"the loss is NaN or Inf in step 3 of epoch 1"):
        maker.fit()


def test_a_full_disk_leaves_the_last_good_files(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_for(data, model, replace(STEADY, epochs=3))
    maker = trainer(tmp_path, plan)
    usage = shutil.disk_usage(tmp_path)

    def fill(progress: object) -> None:
        if maker.position.epoch == 1:
            monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))

    with pytest.raises(DataError, match="the disk is full"):
        maker.fit(fill)
    monkeypatch.undo()
    state = find_state(tmp_path)
    assert state
    assert state.position.epoch == 1
    assert read_card(tmp_path / "best.safetensors").arch == "videoswin"
    resumed = trainer(tmp_path, plan, resume=True)
    assert resumed.fit() == "done"


def test_a_run_directory_of_another_recipe_is_refused(
    data: Path, model: Path, tmp_path: Path
) -> None:
    plan = plan_for(data, model)
    with open_run_directory(tmp_path, plan.fingerprint(), False) as there:
        assert not there
    # Nothing was trained, as after an option that was refused: other options are fine.
    with open_run_directory(tmp_path, {**plan.fingerprint(), "seed": 99}, False) as there:
        assert not there
    with open_run_directory(tmp_path, plan.fingerprint(), False) as there:
        assert not there
    (tmp_path / FILE).touch()
    with open_run_directory(tmp_path, plan.fingerprint(), True) as there:
        assert there
    with (
        pytest.raises(DataError, match="holds a training already"),
        open_run_directory(tmp_path, plan.fingerprint(), False),
    ):
        pass
    other = replace(plan, recipe=replace(plan.recipe, lr=0.5))
    with (
        pytest.raises(DataError, match=r"another recipe: lr \(0.001, not 0.5\)"),
        open_run_directory(tmp_path, other.fingerprint(), True),
    ):
        pass


def test_a_training_of_an_older_version_is_refused_with_a_way_out(
    data: Path, model: Path, tmp_path: Path
) -> None:
    plan = plan_for(data, model)
    trainer(tmp_path, replace(plan, recipe=replace(STEADY, epochs=1))).fit()
    # The first format had `schema` instead of `format`, and other keys.
    (tmp_path / "training.json").write_text(json.dumps({"schema": 1, "clips_per_update": 4}))
    way_out = rf"older version of vt.*another folder with -o.*-m {tmp_path / 'best.safetensors'}"
    with pytest.raises(DataError, match=way_out), open_run_directory(tmp_path, {}, True):
        pass
    with pytest.raises(DataError, match="newer version of vt; update vtcli"):
        check_format(tmp_path, FORMAT + 1)
    state = CheckpointSlot(tmp_path, FILE).path
    table = {"position": {"epoch": 1, "update": 0, "done": 3}, "values": {}}
    write_checkpoint(state, {"model.x": torch.zeros(1)}, {KEY: json.dumps(table)})
    with pytest.raises(DataError, match=way_out):
        trainer(tmp_path, plan, resume=True)
    assert trainer(tmp_path / "new", plan_for(data, tmp_path / "best.safetensors")).fit() == "done"


def test_a_missing_package_is_named_with_the_extra_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert missing_packages() == []
    monkeypatch.setattr("vtcli.training.artifacts.find_spec", lambda name: None)
    plot, board = missing_packages()
    assert "matplotlib is not installed" in plot
    assert "pip install 'vtcli[plot]'" in plot
    assert "pip install 'vtcli[tensorboard]'" in board


def test_epochs_are_logged_for_tensorboard(data: Path, model: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    maker = trainer(tmp_path, plan_for(data, model))
    maker.fit()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("val_loss")
    rows = maker.position.history
    assert [event.step for event in events] == [row["step"] for row in rows]
    assert [event.value for event in events] == pytest.approx([row["val_loss"] for row in rows])


def test_partial_files_of_a_killed_writer_are_removed(
    data: Path, model: Path, tmp_path: Path
) -> None:
    left = tmp_path / f".new.{FILE}.a1b2_c3d"
    left.mkdir()
    (left / FILE).write_bytes(b"half")
    mine = tmp_path / ".notes"
    mine.mkdir()
    with open_run_directory(tmp_path, plan_for(data, model).fingerprint(), False):
        assert not left.exists()
        assert mine.exists()


@pytest.mark.parametrize("frozen", [{"backbone_lr": 0.0}, {"layer_decay": 0.0}])
def test_a_backbone_with_learning_rate_zero_does_not_change(
    frozen: dict[str, float], data: Path, model: Path, tmp_path: Path
) -> None:
    maker = trainer(tmp_path / "run", plan_for(data, model, replace(STEADY, **frozen)))
    maker.fit()
    before, after = weights(model), weights(tmp_path / "run" / "best.safetensors")
    assert all(torch.equal(before[n], after[n]) for n in before if n.startswith("stages.0."))
    assert maker.position.history[0]["lr"] > 0


def test_a_second_sigterm_at_once_is_ignored(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = trainer(tmp_path, plan_for(data, model))

    def stop(progress: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    ended: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    try:
        assert maker.fit(stop) == "terminated"
        assert not ended
        monkeypatch.setattr("vtcli.training.signals.FORCE_QUIT_AFTER", -1.0)
        trainer(tmp_path, maker.plan, resume=True).fit(stop)
        assert ended
    finally:
        signal.signal(signal.SIGTERM, before)


def test_fewer_frames_than_the_network_needs_are_refused(data: Path, tmp_path: Path) -> None:
    start = model_file(tmp_path / "x.safetensors", "xvit")
    with pytest.raises(ShapeError, match="multiple of 4 frames, not 3"):
        trainer(tmp_path / "run", plan_for(data, start, num_frames=3))
    start = model_file(tmp_path / "v.safetensors", "vivit")
    with pytest.raises(UsageError, match="--num-frames 1 does not fill a tubelet of 2 frames"):
        trainer(tmp_path / "run", plan_for(data, start, num_frames=1))


def test_a_checkpoint_of_the_same_classes_keeps_its_classifier(data: Path, tmp_path: Path) -> None:
    start = model_file(tmp_path / "x.safetensors", "videoswin", ("a", "b", "c"))
    maker = trainer(tmp_path / "run", plan_for(data, start))
    assert torch.equal(maker.model.state_dict()["head.weight"], weights(start)["head.weight"])
