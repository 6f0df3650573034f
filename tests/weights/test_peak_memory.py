"""Converting a repository and loading it need less than 1.3 times the size of its weights.

Each step runs in a process of its own. A tiny repository goes the same way first, so that the
libraries it imports are not counted.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.weights.hf_models import make_model, make_processor

LIMIT = 1.3
CODE = """
import resource, sys
from pathlib import Path
from vtcli.weights.convert import convert
from vtcli.weights.load import load_model
def step(source):
    if sys.argv[1] != "load":
        convert(source, Path(source, "ours.vt"), verify=sys.argv[1] == "verify")
    else:
        load_model(Path(source, "ours.vt.safetensors"))
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
step(sys.argv[2])
before = peak()
step(sys.argv[3])
print(peak() - before)
"""


def beyond(step: str, tiny: Path, large: Path) -> int:
    """Bytes of peak memory that a step of the large repository adds to that of the tiny one."""
    words = [sys.executable, "-c", CODE, step, str(tiny), str(large)]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_converting_and_loading_need_little_more_than_the_weights(tmp_path: Path) -> None:
    tiny, large = tmp_path / "tiny", tmp_path / "large"
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    make_model(tiny)
    make_model(large, **sizes, num_hidden_layers=4)
    for folder in (tiny, large):
        make_processor(folder)
    bytes_ = (large / "model.safetensors").stat().st_size
    assert bytes_ > 100e6
    for step in ("convert", "verify"):
        assert beyond(step, tiny, large) < LIMIT * bytes_, step
    for folder in (tiny, large):
        (folder / "ours.vt").rename(folder / "ours.vt.safetensors")
    assert beyond("load", tiny, large) < LIMIT * bytes_
