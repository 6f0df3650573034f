"""A step of `vt finetune` against the same step by transformers' Trainer: python
benchmarks/training.py

One process runs ViViT-B and transformers' ViViT with the same random weights, each in its own
training loop, with the vivit recipe's optimizer (SGD with momentum, gradients clipped) and the same
clips, already decoded and in memory. The loops take turns, some steps each; in the first turn,
which is not timed, their losses must agree. A step lasts from one batch to the next, collating
included. Neither uses gradient checkpointing, and the Trainer logs and saves nothing. Prints the
medians of the turns' seconds per step and of their ratios, with the range.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from peers import TransformersViViT, print_machine, spread
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import IterableDataset

from vtcli.data.samples import Dataset, Sample
from vtcli.data.splits import TrainValSplit
from vtcli.data.train_loader import ClipRequest, TrainClip, epoch_order
from vtcli.runtime.distributed import Group
from vtcli.training.init import SCRATCH, plan_init
from vtcli.training.plan import TrainPlan, TrainSettings
from vtcli.training.recipes import find_recipe
from vtcli.training.results import TrainProgress
from vtcli.training.trainer import Trainer

MODEL = "vivit-b"
CLASSES = 400
CLIPS = 8
# Largest relative difference of a turn's mean loss that is still the same training.
TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2}


class EnoughError(Exception):
    """All turns are done; nothing is validated or saved."""


class Memory:
    """Clips that are decoded already: replaces the loop's reader."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.clips = [torch.randn(shape) for _ in range(CLIPS)]

    def __getitem__(self, number: int) -> Tensor:
        return self.clips[number % CLIPS]

    def read(self, request: ClipRequest) -> TrainClip:
        return TrainClip(self[request.number], padded=False)


class InOrder(IterableDataset):
    """The clips in the Trainer's format and in the order of our loop, from `first`."""

    def __init__(self, memory: Memory, plan: TrainPlan) -> None:
        self.memory, self.samples = memory, plan.split.train.samples
        self.order = epoch_order(len(self.samples), 0, plan.seed)
        self.first = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in self.order[self.first :]:
            clip_TCHW = self.memory[number].transpose(0, 1)
            yield {"pixel_values": clip_TCHW, "labels": self.samples[number].labels[0]}


class StepTimes(transformers.TrainerCallback):
    """Measures the seconds from reading the first batch to the end of the last step."""

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
        if state.global_step == args.max_steps:
            if not args.use_cpu:
                torch.cuda.synchronize()
            self.seconds = time.perf_counter() - self.start


class Peer:
    """transformers' Trainer with our recipe's optimizer, a few steps at a time."""

    def __init__(
        self, net: nn.Module, plan: TrainPlan, data: InOrder, steps: int, folder: str
    ) -> None:
        recipe = plan.recipe
        self.data, self.batch_size = data, recipe.batch_size
        sgd = torch.optim.SGD(
            net.parameters(), lr=recipe.lr * plan.lr_scale, momentum=recipe.momentum
        )
        settings = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=recipe.batch_size,
            max_steps=steps,
            max_grad_norm=recipe.clip_grad,
            bf16=recipe.amp_dtype == "bf16",
            use_cpu=plan.settings.device == "cpu",
            dataloader_num_workers=0,
            dataloader_pin_memory=plan.settings.device != "cpu",
            disable_tqdm=True,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
        )
        self.times = StepTimes()
        self.trainer = transformers.Trainer(
            net,
            settings,
            train_dataset=data,
            optimizers=(sgd, LambdaLR(sgd, lambda _: 1.0)),
            callbacks=[self.times],
        )
        self.trainer.remove_callback(transformers.PrinterCallback)

    def turn(self, number: int) -> tuple[float, float]:
        """Seconds per step and mean loss of a turn."""
        steps = self.trainer.args.max_steps
        self.data.first = number * steps * self.batch_size
        loss = self.trainer.train().training_loss
        return self.times.seconds / steps, loss


class Contest:
    """Called after each of our optimizer steps; after our turn, the peer has the same one."""

    def __init__(self, peer: Peer, args: argparse.Namespace) -> None:
        self.peer, self.precision = peer, args.precision
        self.steps, self.turns = args.steps, args.rounds + 1
        self.ours: list[float] = []
        self.peers: list[float] = []
        self.loss_before = self.seconds = 0.0
        self.start = time.perf_counter()

    def on_step(self, progress: TrainProgress) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - self.start
        if progress.step % self.steps == 0:
            number = progress.step // self.steps - 1
            peer_seconds, peer_loss = self.peer.turn(number)
            total = progress.loss * progress.step
            self._compare(number, (total - self.loss_before) / self.steps, peer_loss)
            if number > 0:
                self.ours.append(self.seconds / self.steps)
                self.peers.append(peer_seconds)
            self.loss_before, self.seconds = total, 0.0
            if number + 1 == self.turns:
                raise EnoughError
        self.start = time.perf_counter()

    def _compare(self, number: int, ours: float, peers: float) -> None:
        """Print both losses of a turn; exit where those of the first turn disagree."""
        print(f"turn {number}: mean loss {ours:.5f}, the peer's {peers:.5f}", flush=True)
        if number == 0 and not abs(ours - peers) <= TOLERANCE[self.precision] * abs(peers):
            raise SystemExit("ours and the peer's are not the same training")

    def print_result(self) -> None:
        ratios = [p / o for p, o in zip(self.peers, self.ours, strict=True)]
        print(
            f"{MODEL} {self.precision}: {spread(self.ours)} s per step, the Trainer's "
            f"{spread(self.peers)} s; ours is {spread(ratios)} x as fast"
        )


def plan_of(args: argparse.Namespace) -> TrainPlan:
    """The vivit recipe at a constant learning rate, one epoch with the samples of all turns."""
    _, published = find_recipe("vivit", flip_sensitive=False)
    recipe = replace(
        published,
        epochs=1,
        batch_size=args.batch_size,
        warmup_epochs=0.0,
        min_lr=published.lr,
        amp_dtype="bf16" if args.precision == "bf16" else "off",
    )
    names = tuple(f"class {number}" for number in range(CLASSES))
    count = (args.rounds + 1) * args.steps * args.batch_size
    samples = tuple(Sample(str(n), Path(str(n)), (37 * n % CLASSES,)) for n in range(count))
    data = Dataset("memory", samples, {"action": names}, "", Path())
    model_init = plan_init(MODEL, SCRATCH, {"action": CLASSES}, recipe)
    settings = TrainSettings(device=args.device, workers=1)
    return TrainPlan(TrainValSplit(data, data, ()), model_init, "vivit", recipe, settings=settings)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="fp32", choices=TOLERANCE)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="of each in every round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    print_machine(torch.device(args.device), ())
    plan = plan_of(args)
    with tempfile.TemporaryDirectory() as folder:
        ours = Trainer(plan, Path(folder), Group())
        with torch.no_grad():
            for parameter in ours.model.parameters():
                # No parameter may stay zero: an error in it would not show.
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
        p = plan.model_init.pipeline
        memory = Memory((3, p.frames, p.crop_size, p.crop_size))
        ours.reader = memory  # type: ignore[assignment]
        net = TransformersViViT(ours.model.state_dict(), plan.model_init.config).model
        print(f"the peer's attention: {net.config._attn_implementation}", flush=True)
        contest = Contest(Peer(net, plan, InOrder(memory, plan), args.steps, folder), args)
        with suppress(EnoughError):
            ours.fit(contest.on_step)
    contest.print_result()


if __name__ == "__main__":
    main()
