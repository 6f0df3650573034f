"""The samples of a run, whose keys are computed when they are needed.

A key reads the state of a file, which for a million files takes longer than scoring should wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vtcli.data.samples import Sample
from vtcli.evaluation.run_directory import HeadTargets, RunSample, sample_key


class RunSamples(Sequence[RunSample]):
    """Samples of a dataset by number, with their targets and keys; a key is computed once."""

    def __init__(
        self, samples: Sequence[Sample], target_of: Mapping[tuple[int, ...], HeadTargets]
    ) -> None:
        self._samples, self._target_of = samples, target_of
        self._made: list[RunSample | None] = [None] * len(samples)

    def __len__(self) -> int:
        return len(self._made)

    def __getitem__(self, number: int) -> RunSample:  # type: ignore[override]
        made = self._made[number]
        if made is None:
            sample = self._samples[number]
            target = self._target_of[sample.labels]
            made = RunSample(sample.id, sample.filename, sample_key(sample), target)
            self._made[number] = made
        return made
