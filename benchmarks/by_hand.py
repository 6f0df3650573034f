"""A bulk run against a loop written by hand: python benchmarks/by_hand.py MODEL CLIP [--copies N]

The loop is PyAV in a torch DataLoader (all frames decoded, the sampled ones resized, cropped and
normalized), the same network in the same precision and batch size, JSON lines written at the end.
With `--transformers`, for a ViViT, its video-classification pipeline computes the same weights too.
All start their decoders anew and take turns, after one turn that is not counted. Printed are wall
time, CPU time of all processes, and the ratios of the others to the bulk run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vtcli.inference.bulk import run_parts
from vtcli.inference.inputs import describe
from vtcli.inference.join import RunRequest, join_run
from vtcli.inference.predictor import Predictor, PredictSettings
from vtcli.video.pipeline import Pipeline, plan_views


@dataclass
class ByHand(Dataset[Tensor]):
    """Clips [3,T,S,S] of videos."""

    paths: list[str]
    pipeline: Pipeline

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Tensor:
        p = self.pipeline
        with av.open(self.paths[number]) as container:
            stream = container.streams.video[0]
            fps = float(stream.average_rate or 25)
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        (view,) = plan_views(p, len(frames), fps, 1, 1)
        clip_TCHW = torch.from_numpy(np.stack([frames[i] for i in view.frame_indices]))
        clip_TCHW = clip_TCHW.permute(0, 3, 1, 2).float()
        scale = p.short_side / min(clip_TCHW.shape[2:])
        size = [round(side * scale) for side in clip_TCHW.shape[2:]]
        clip_TCHW = torch.nn.functional.interpolate(clip_TCHW, size, mode="bilinear")
        top, left = ((side - p.crop_size) // 2 for side in size)
        clip_TCHW = clip_TCHW[:, :, top : top + p.crop_size, left : left + p.crop_size]
        mean, std = (torch.tensor(values)[:, None, None] for values in (p.mean, p.std))
        return ((clip_TCHW / 255 - mean) / std).transpose(0, 1)


def pipeline_of(predictor: Predictor, folder: Path, workers: int) -> Callable[[list[str]], object]:
    """The pipeline of transformers for the network of a predictor, a ViViT."""
    import transformers
    from cold import PROCESSOR

    from vtcli.models import get_architecture
    from vtcli.models.layouts import from_vt
    from vtcli.models.vivit.checkpoints import hf_config
    from vtcli.weights.checkpoint import write_checkpoint

    net: Any = predictor.net
    p = predictor.pipeline
    tensors = from_vt(get_architecture("vivit").layouts["hf"], net.state_dict(), net.config)
    write_checkpoint(folder / "model.safetensors", tensors, {})
    (folder / "config.json").write_text(hf_config(net.config, net.labels, multi_label=False)[1])
    crop = {"height": p.crop_size, "width": p.crop_size}
    sizes = {"size": {"shortest_edge": p.short_side}, "crop_size": crop}
    (folder / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, **sizes}))
    transformers.logging.set_verbosity_error()
    return transformers.pipeline(  # type: ignore[no-any-return]
        "video-classification",
        model=str(folder),
        dtype=net.dtype,
        batch_size=predictor.auto_batch_size(),
        num_workers=workers,
    )


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Wall time, and CPU time with that of children that have ended, in seconds."""
    start, before = time.perf_counter(), sum(os.times()[:4])
    work()
    return time.perf_counter() - start, sum(os.times()[:4]) - before


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("clip", type=Path)
    parser.add_argument("--copies", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-j", "--workers", type=int, default=2)
    parser.add_argument("--transformers", action="store_true")
    args = parser.parse_args()
    settings = PredictSettings(workers=args.workers)
    times: dict[str, list[tuple[float, float]]] = {"by hand": [], "bulk run": []}
    if args.transformers:
        times["transformers"] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = [str(folder / f"{n:05}{args.clip.suffix}") for n in range(args.copies)]
        for path in paths:
            os.symlink(args.clip.resolve(), path)
        predictor = Predictor(args.model, settings)
        net, size = predictor.net, predictor.auto_batch_size()
        if args.transformers:
            (folder / "hf").mkdir()
            pipeline = pipeline_of(predictor, folder / "hf", args.workers)
        for number in range(args.rounds + 1):
            run = join_run(RunRequest(folder / f"run{number}", args.model, settings))
            run.predictor.close()  # its decoders start in the time that is measured, as the others'

            def bulk(run: Any = run) -> None:
                with run.predictor:
                    run.store.add_inputs(map(describe, paths))
                    run_parts(run.store, run.rows, run.write)

            def by_hand(file: Path = folder / f"{number}.jsonl") -> None:
                dataset = ByHand(paths, predictor.pipeline)
                loader = DataLoader(dataset, batch_size=size, num_workers=args.workers)
                rows = []
                with torch.inference_mode():
                    for batch in loader:
                        scores = net(batch.to(net.dtype)).float().softmax(-1)
                        rows += [one.topk(5) for one in scores]
                lines = [
                    json.dumps({"path": path, "scores": top.values.tolist()})
                    for path, top in zip(paths, rows, strict=True)
                ]
                file.write_text("\n".join(lines))

            works = {"by hand": by_hand, "bulk run": bulk}
            if args.transformers:
                works["transformers"] = lambda: list(pipeline(paths))  # type: ignore[call-overload]
            for name, work in works.items():
                taken = measured(work)
                if number:
                    times[name].append(taken)
    for index, kind in enumerate(("wall", "CPU")):
        each = {
            name: 1000 * statistics.median(t[index] for t in taken) / len(paths)
            for name, taken in times.items()
        }
        said = ", ".join(f"{name} {value:.1f} ms" for name, value in each.items())
        for name in times.keys() - {"bulk run"}:
            pairs = zip(times[name], times["bulk run"], strict=True)
            ratios = [other[index] / own[index] for other, own in pairs]
            spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
            said += f"; {name} / bulk run {statistics.median(ratios):.2f} ({spread})"
        print(f"{kind} per video: {said}")


if __name__ == "__main__":
    main()
