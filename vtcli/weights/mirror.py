"""Mirror checkpoints to an organization of the Hub as safetensors, with a registry file for a team.

Each checkpoint is downloaded, converted, verified and pushed to ORG/<id>; after each one the file
`registry.toml` in ORG/vt-registry lists it with its digest. A run that was killed resumes where it
stopped, and a finished run changes nothing. VT_REGISTRY=hf://ORG/vt-registry makes other machines
load these files.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from vtcli.errors import DataError, UsageError, WeightsError
from vtcli.runtime.files import file_sha256
from vtcli.runtime.progress import ProgressCallback
from vtcli.weights.cache import lock
from vtcli.weights.checkpoint import WEIGHTS_FILE, read_card
from vtcli.weights.class_order import CheckpointOrigin
from vtcli.weights.convert import convert
from vtcli.weights.download import fetch
from vtcli.weights.download_errors import SourceError, another_token
from vtcli.weights.hub_files import HubFile, hub_file, hub_version
from vtcli.weights.names import is_repo
from vtcli.weights.push import RIGHT, commit_files, push
from vtcli.weights.registry import REGISTRY_FILE, Checkpoint, Registry, load_registry
from vtcli.weights.resolve import cached_path

REGISTRY_REPO = "vt-registry"
# Licenses that allow copies in another format to be passed on.
OPEN_LICENSES = frozenset(
    {
        *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "unlicense", "isc"),
        *("cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-3.0"),
    }
)
_README = """# Checkpoints of this organization for vt

```
export VT_REGISTRY=hf://{repo}
vt models list --available
```
"""


@dataclass(frozen=True)
class Mirrored:
    """What happened to one checkpoint; `reason` says why it was skipped or failed."""

    id: str
    status: Literal["pushed", "unchanged", "skipped", "failed"]
    repo: str = ""
    reason: str = ""


def mirror(
    org: str,
    pattern: str = "*",
    *,
    private: bool = True,
    registry: Registry | None = None,
    on_download: ProgressCallback | None = None,
    on_entry: ProgressCallback | None = None,
) -> Iterator[Mirrored]:
    """Mirror every available checkpoint whose id matches, one after the other.

    Yields one result per checkpoint; a failure is a result and not the end. `on_entry` is called
    with the checkpoint that is next, the number of those before it, and that of all. Raises
    `UsageError` for an organization's name that is not one, and `WeightsError` without a token.
    """
    import huggingface_hub as hub

    if not is_repo(f"{org}/{REGISTRY_REPO}"):
        raise UsageError(f"'{org}' is not the name of an organization of the Hub; write its name")
    registry = registry or load_registry()
    entries = registry.match(pattern)
    if not entries:
        raise UsageError(f"no checkpoint matches '{pattern}'; see `vt models list`")
    if hub.get_token() is None:
        raise WeightsError(f"cannot push to {org}: no token; {another_token(RIGHT)}")
    listed = _listed(org)
    for number, entry in enumerate(entries):
        if on_entry:
            on_entry(entry.id, number, len(entries))
        if reason := _why_skipped(entry):
            yield Mirrored(entry.id, "skipped", reason=reason)
            continue
        try:
            yield _mirror_one(entry, org, private, registry, listed, on_download)
        except (WeightsError, DataError, SourceError) as error:
            yield Mirrored(entry.id, "failed", f"{org}/{entry.id}", str(error))


def _why_skipped(entry: Checkpoint) -> str:
    """Why an entry is not mirrored; "" if it is."""
    if all(source.kind == "bundled" for source in entry.sources) and entry.sources:
        return "it comes with vt"
    if not entry.available:
        return "no source of it is available"
    licenses = {entry.license, *(s.license for s in entry.sources if s.link_status != "dead")}
    named = sorted(license_ for license_ in licenses if license_)
    if not named:
        return "its license is not known"
    if any("none stated" in name for name in named):
        return "the license of its weights is not known"
    # A remark may follow the name, such as "Apache-2.0 (mmaction2)".
    closed = [n for n in named if n.split(" (")[0].strip().lower() not in OPEN_LICENSES]
    return f"its license does not clearly allow copies: {closed[0]}" if closed else ""


def _mirror_one(
    entry: Checkpoint,
    org: str,
    private: bool,
    registry: Registry,
    listed: dict[str, dict[str, Any]],
    on_download: ProgressCallback | None,
) -> Mirrored:
    repo = f"{org}/{entry.id}"
    own = tuple(s for s in entry.sources if s.repo != repo)
    # The name of the cached file has a hash of all that the entry says of the weights.
    made_from = cached_path(replace(entry, sources=own)).name
    source = _source_of(listed.get(entry.id, {}))
    if source.get("notes") == made_from and source.get("sha256") == _stored(repo)[0]:
        return Mirrored(entry.id, "unchanged", repo)
    path = cached_path(entry)
    with lock(path):
        fetched = fetch(entry, progress=on_download)
        if fetched.source.layout == "vt":
            path = fetched.path
            read_card(path)
        else:
            origin = CheckpointOrigin(entry, fetched.source, fetched.sha256)
            convert(fetched.path, path, registry=registry, origin=origin, verify=True)
    digest = file_sha256(path)
    if _stored(repo)[0] != digest:
        push(path, repo, private=private)
    stored, commit = _stored(repo)
    if stored != digest:
        raise WeightsError(f"the Hub has other bytes in {repo} than were pushed; run it again")
    table = {} if entry.id in load_registry(extra=()).checkpoints else _entry_table(entry)
    listed[entry.id] = {
        "id": entry.id,
        **table,
        "source": [
            {
                "kind": "hub",
                "repo": repo,
                "file": WEIGHTS_FILE,
                "revision": commit,
                "layout": "vt",
                "serialization": "safetensors",
                "link_status": "alive",
                "sha256": digest,
                "sha256_source": "computed when it was mirrored",
                "bytes": path.stat().st_size,
                "license": entry.license,
                "notes": made_from,
            }
        ],
    }
    _write_registry(org, listed, private)
    return Mirrored(entry.id, "pushed", repo)


def _source_of(table: Mapping[str, Any]) -> dict[str, Any]:
    return next(iter(table.get("source", [])), {})


def _stored(repo: str) -> tuple[str, str]:
    """The sha256 and the commit of the weights in a repository; "" where it has none."""
    return hub_version(HubFile(repo, WEIGHTS_FILE)) or ("", "")


# --- the registry file ----------------------------------------------------------------------------


def _listed(org: str) -> dict[str, dict[str, Any]]:
    """The tables of the mirror's registry file by id; none before the first run."""
    file = HubFile(f"{org}/{REGISTRY_REPO}", REGISTRY_FILE)
    try:
        if hub_version(file) is None:
            return {}
        path, _ = hub_file(file)
    except SourceError as failure:
        raise WeightsError(
            f"cannot look up the registry hf://{file.repo}: {failure}; {failure.hint}"
        ) from failure
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(
            f"the registry hf://{file.repo} cannot be read ({error}); correct or delete it"
        ) from error
    pipelines = data.get("pipeline", {})
    return {
        table["id"]: {**table, "pipeline_table": pipelines[table["id"]]}
        if table["id"] in pipelines
        else table
        for table in data.get("checkpoint", [])
    }


def _entry_table(entry: Checkpoint) -> dict[str, Any]:
    """All that a registry file has to say of an entry that the package does not know."""
    facts = (
        *("arch", "model", "dataset", "frames", "resolution", "views", "pretrain", "license"),
        *("top1", "top5", "metric", "metric_source", "notes"),
    )
    table = {name: getattr(entry, name) for name in facts}
    return {
        **{name: value for name, value in table.items() if value not in (None, "")},
        "head": [_head_table(head) for head in entry.heads],
        "config": dict(entry.config),
        "pipeline": entry.id,
        "pipeline_table": entry.pipeline.to_dict(),
    }


def _head_table(head: Any) -> dict[str, Any]:
    known = head.label_list and not head.label_list.endswith(".txt")
    named = {"labels": head.label_list, "confidence": head.confidence} if known else {}
    return {"name": head.name, "size": head.size, **named}


def _write_registry(org: str, listed: Mapping[str, Mapping[str, Any]], private: bool) -> None:
    repo = f"{org}/{REGISTRY_REPO}"
    contents = {
        REGISTRY_FILE: registry_text(listed).encode(),
        "README.md": _README.format(repo=repo).encode(),
    }
    commit_files(repo, contents, "Update the registry", private=private)


def registry_text(listed: Mapping[str, Mapping[str, Any]]) -> str:
    """A registry file in TOML with these tables, in the order of their ids."""
    lines = ["# Written by `vt models mirror`; use it with VT_REGISTRY."]
    for _, table in sorted(listed.items()):
        values = dict(table)
        if pipeline := values.pop("pipeline_table", None):
            lines += ["", f"[pipeline.{json.dumps(values['id'])}]"]
            lines += [f"{key} = {_toml(value)}" for key, value in pipeline.items()]
        lines += ["", "[[checkpoint]]"]
        lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
