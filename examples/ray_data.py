"""Predict the videos of a Ray Dataset: `vtcli.Predictor` is a callable class for `map_batches`.

    python examples/ray_data.py [FOLDER]

Needs `pip install 'vtcli[ray,parquet]' pandas`. Works offline: the clips are synthetic, and the
model is part of the package. For runs that must survive a kill without a lost or doubled row,
`vt predict FOLDER -o RUN/ --engine ray` has journals and claims, which Ray Data has not.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import ray

import vtcli
from vtcli.synthetic.motion8 import make_motion8

MODEL = "uniformerv2-nano"


def main(folder: Path) -> None:
    """Predict eight synthetic clips and a file that is not a video, written to `folder`."""
    make_motion8(folder, clips={"test": 8})
    (folder / "broken.mp4").write_bytes(b"not a video")
    paths = sorted(str(path) for path in folder.rglob("*.mp4"))

    # The weights are loaded once per actor. A batch has a column `path` (or `bytes`); `label`,
    # `score`, `reason` and `error` are added, and a file that cannot be read is a row as well.
    answers = ray.data.from_items([{"path": path} for path in paths]).map_batches(
        vtcli.Predictor,
        fn_constructor_args=(MODEL,),
        fn_constructor_kwargs={"topk": 1, "workers": 1},
        batch_size=4,
        compute=ray.data.ActorPoolStrategy(size=1),  # on GPUs: one actor each, and num_gpus=1
    )
    for row in answers.take_all():
        print(f"{Path(row['path']).relative_to(folder)}: {row['label'] or row['reason']}")


if __name__ == "__main__":
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True  # otherwise rows come as batches are done
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else temporary) / "motion8")
