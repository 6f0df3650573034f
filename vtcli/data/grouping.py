"""Groups of videos that belong on one side of a held-out split: copies and cuts of one source.

Copies have the same bytes. Cuts are recognized by their names (`v_Archery_g01_c02`,
`clip_003_part2`), or by the column or pattern that the user gives.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vtcli.data.samples import Dataset, Sample
from vtcli.errors import UsageError
from vtcli.runtime.words import plural

_CUT_WORDS = "part|pt|cut|clip|seg|segment|chunk|piece|slice|snippet|scene|shot|trim"
# What all cuts of one source share is the first group of the pattern.
_CUTS = (
    re.compile(r"(.+_g\d+)_c\d+", re.IGNORECASE),  # UCF101, HMDB51's predecessors
    re.compile(r"([\w-]{11})_\d{6}_\d{6}"),  # Kinetics: YouTube id, start and end
    re.compile(rf"(.*[^\W_].*?)[ _.-]*\b(?<![a-z])(?:{_CUT_WORDS})[ _.-]*\d+", re.IGNORECASE),
    re.compile(rf"(.*[^\W_])[_.-](?:{_CUT_WORDS})[ _.-]*\d+", re.IGNORECASE),
)
_MOST = 0.5
MOST_COMPARED = 20_000
"""Videos of two given splits whose contents are compared before a training."""


@dataclass(frozen=True)
class Groups:
    """The group of each video (a video alone is its own), and what was grouped, in sentences."""

    of: Mapping[Path, str]
    summary: tuple[str, ...]


def group_videos(dataset: Dataset, group_by: str | None = None) -> Groups:
    """The groups of a dataset's videos.

    group_by: the name of a column of the annotation, or a regular expression that is searched in
        each sample's id; its first group, or else the match, names the group. By default videos are
        grouped by their names. Copies are always grouped.
    Raises `UsageError` if `group_by` is neither.
    """
    notes = []
    if group_by is not None:
        key_of = _column(dataset, group_by) or _pattern(dataset, group_by)
        named = {s.path: key for s in dataset.samples if (key := key_of(s))}
        how = f"by {group_by}"
    else:
        named = {s.path: key for s in dataset.samples if (key := source_name(s.path.stem))}
        how = "by name"
        for name, path in _whole_classes(dataset, named):
            named = {p: key for p, key in named.items() if key != named[path]}
            notes.append(
                f"warning: all videos of class '{name}' are named like cuts of one source, such as "
                f"{path.name}, and are not kept together; --group-by says what is"
            )
    groups = _joined(dict.fromkeys(s.path for s in dataset.samples), named, _copies(dataset))
    counted = _counted(Counter(groups[p] for p in named))
    if counted:
        notes.insert(0, f"{counted} {how} are kept on one side of the split")
    copies = _counted(Counter(_copies(dataset).values()))
    if copies:
        notes.append(f"{copies} with the same content are kept on one side of the split")
    return Groups(groups, (*notes, *_large(dataset, groups)))


def source_name(stem: str) -> str:
    """What a file name without its extension says that it is cut from; "" if it says nothing."""
    found = next((match for p in _CUTS if (match := p.fullmatch(stem))), None)
    return found[1].casefold() if found else ""


def _column(dataset: Dataset, name: str) -> Callable[[Sample], str] | None:
    wanted = name.strip().casefold()
    if not any(wanted in sample.columns for sample in dataset.samples):
        return None
    return lambda sample: str(sample.columns.get(wanted) or "").strip()


def _pattern(dataset: Dataset, text: str) -> Callable[[Sample], str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UsageError(
            f"--group-by '{text}' is neither a column nor a regular expression ({error}); an "
            "example is --group-by '(subject[0-9]+)'"
        ) from error
    if not any(pattern.search(sample.id) for sample in dataset.samples):
        columns = sorted({name for sample in dataset.samples for name in sample.columns})
        listed = f"its columns are {', '.join(columns)}" if columns else "it has no columns"
        raise UsageError(
            f"--group-by '{text}' is neither a column of {dataset.name} ({listed}) nor found in "
            f"any path, such as {dataset.samples[0].id}; change it"
        )

    def key_of(sample: Sample) -> str:
        found = pattern.search(sample.id)
        if found is None:
            return ""
        return "/".join(part or "" for part in found.groups()) if found.groups() else found[0]

    return key_of


def _whole_classes(dataset: Dataset, named: Mapping[Path, str]) -> Iterable[tuple[str, Path]]:
    """Classes of at least three videos that all seem to be cuts of one, and one of the videos."""
    for name, paths in _by_class(dataset).items():
        keys = {named.get(path, "") for path in paths}
        if len(paths) > 2 and len(keys) == 1 and keys != {""}:
            yield name, min(paths)


def _by_class(dataset: Dataset) -> Mapping[str, set[Path]]:
    """The videos of each class of the first head."""
    names = next(iter(dataset.classes.values()))
    found: dict[str, set[Path]] = defaultdict(set)
    for sample in dataset.samples:
        for label in sample.labels[:1]:
            found[names[label] if label < len(names) else str(label)].add(sample.path)
    return found


def copies_between(train: Dataset, validation: Dataset) -> list[Path]:
    """The videos of a validation split that have the same bytes as one of the training split.

    Nothing where the two have more than `MOST_COMPARED` videos: `vt datasets check` reads them all.
    """
    if len(train.samples) + len(validation.samples) > MOST_COMPARED:
        return []
    digests = _copies(train, validation)
    known = {d for s in train.samples if (d := digests.get(s.path))}
    return sorted({s.path for s in validation.samples if digests.get(s.path) in known})


def _copies(*datasets: Dataset) -> Mapping[Path, str]:
    """The SHA-256 of every video whose size another one has."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in dict.fromkeys(sample.path for d in datasets for sample in d.samples):
        try:
            if path.is_file():
                by_size[path.stat().st_size].append(path)
        except OSError:
            continue
    digests = {
        p: d for same in by_size.values() if len(same) > 1 for p in same if (d := _digest(p))
    }
    counts = Counter(digests.values())
    return {path: digest for path, digest in digests.items() if counts[digest] > 1}


def _digest(path: Path) -> str:
    """The SHA-256 of a file, "" if it cannot be read: reading it later says why."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _joined(paths: Iterable[Path], *keys: Mapping[Path, str]) -> dict[Path, str]:
    """The group of each video: those that share one key directly or through others."""
    parent: dict[object, object] = {}

    def root(node: object) -> object:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    listed = list(paths)
    for number, key_of in enumerate(keys):
        for path, key in key_of.items():
            parent[root(path)] = root((number, key))
    first: dict[object, str] = {}
    return {path: first.setdefault(root(path), os.fspath(path)) for path in listed}


def _counted(sizes: Counter[str]) -> str:
    several = [size for size in sizes.values() if size > 1]
    return f"{plural(sum(several), 'video')} in {plural(len(several), 'group')}" if several else ""


def _large(dataset: Dataset, groups: Mapping[Path, str]) -> Sequence[str]:
    """A warning for each class of which one group is most."""
    notes = []
    for name, paths in _by_class(dataset).items():
        group, size = Counter(groups[path] for path in paths).most_common(1)[0]
        if size > 1 and size > _MOST * len(paths):
            notes.append(
                f"warning: {size} of the {len(paths)} videos of class '{name}' are one group "
                f"(that of {Path(group).name}), so its validation videos are few or alike"
            )
    return notes
