"""`python -m vtcli.video.decoder_check` prints JSON and reads what the library can write."""

from __future__ import annotations

import json
import subprocess
import sys

from vtcli.video.decoder_check import probe_decoders


def test_every_decoder_that_can_be_tested_reads_its_clip() -> None:
    checks = probe_decoders()
    assert {check.codec for check in checks} >= {"h264", "hevc", "vp9", "av1", "mpeg4", "gif"}
    assert [check for check in checks if check.status == "failed"] == []
    assert any(check.status == "ok" for check in checks)


def test_it_runs_as_a_separate_process_and_prints_json() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "vtcli.video.decoder_check"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    assert {"codec", "status", "detail"} == set(json.loads(run.stdout)[0])
