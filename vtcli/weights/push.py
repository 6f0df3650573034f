"""Push a converted checkpoint to the Hugging Face Hub: the file, config.json and README.md.

Both texts are made from the card in the file's metadata (`vtcli/weights/checkpoint.py`). The front
matter of README.md follows the Hub's model card specification.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vtcli.errors import WeightsError
from vtcli.weights.checkpoint import CARD_KEY, read_header, upgrade
from vtcli.weights.download_errors import SET_TOKEN, explain

# License identifiers of the Hub; every other one is `other` there and spelled out in the text.
HUB_LICENSES = {"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"}


def push(path: Path, repo: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload a converted file with `config.json` and `README.md` in one commit; returns the URL.

    The repository is created if needed. Raises `InputError` for a missing file and `WeightsError`
    for a file without a model card, a missing or refused token, and any failed transfer.
    """
    import huggingface_hub as hub

    card = _card(path)
    if token is None and hub.get_token() is None:
        raise WeightsError(f"cannot push to {repo}: no token; {SET_TOKEN}, with write permission")
    contents: dict[str, Path | bytes] = {
        "model.safetensors": path,
        "config.json": json.dumps(card, indent=2, ensure_ascii=False).encode(),
        "README.md": model_card(card, repo).encode(),
    }
    return commit_files(
        repo, contents, f"Upload {card.get('id', repo)}", private=private, token=token
    )


def commit_files(
    repo: str,
    contents: Mapping[str, Path | bytes],
    message: str,
    *,
    private: bool,
    token: str | None = None,
) -> str:
    """Write files to a repository in one commit, which is created if needed; returns its URL.

    Raises `WeightsError` for a refused token and any failed transfer.
    """
    import huggingface_hub as hub
    from huggingface_hub.errors import HFValidationError, HTTPError

    operations = [hub.CommitOperationAdd(name, content) for name, content in contents.items()]
    api = hub.HfApi(token=token)
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.create_commit(url.repo_id, operations, commit_message=message)
    except HFValidationError as error:
        raise WeightsError(f"cannot push to '{repo}': write the repository as org/name") from error
    # The Hub's client reports a rejected model card as ValueError, a broken upload as RuntimeError.
    except (OSError, RuntimeError, ValueError, HTTPError) as error:
        raise WeightsError(f"cannot push to {repo}: {_reason(error)}") from error
    return str(url)


def _card(path: Path) -> dict[str, Any]:
    text = read_header(path).get("__metadata__", {}).get(CARD_KEY)
    if text is None:
        raise WeightsError(f"{path} is not a converted checkpoint; make one with `vt convert`")
    return upgrade(json.loads(text))


def _reason(error: Exception) -> str:
    """Why the Hub refused the upload, and the fix."""
    from huggingface_hub import constants

    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return f"the Hub does not accept the token; {SET_TOKEN}"
    if status == 403:
        return f"the token has no write permission there; {SET_TOKEN}, with write permission"
    if isinstance(error, ValueError):
        return f"the Hub rejects the model card: {' '.join(str(error).split())}"
    failure = explain(error, urlsplit(constants.ENDPOINT).netloc)
    return f"{failure}; {failure.hint}"


# --- the model card -------------------------------------------------------------------------------


def model_card(card: Mapping[str, Any], repo: str) -> str:
    """The text of README.md: front matter, then a section for each group of facts the card has."""
    source = card.get("source") or {}
    scores = {
        "top1": "top-1 (%)",
        "top5": "top-5 (%)",
        "views": "clips x crops",
        "metric_source": "source",
    }
    origin = {"address": "file", "sha256": "sha256", "bytes": "bytes", "layout": "layout"}
    licenses = {"weights": card.get("license"), "source": source.get("license")}
    sections = {
        "Use": ["```", "pip install vtcli", f"vt predict clip.mp4 -m hf://{repo}", "```"],
        "Accuracy as published": _table(card, scores) if card.get("top1") is not None else [],
        "Pipeline": _table(card.get("pipeline") or {}),
        "Labels": [_head_line(head) for head in card.get("heads") or []],
        "Origin": _table(source, origin),
        "License": _table(licenses),
    }
    text = [f"# {card.get('id', repo)}", "", *_introduction(card)]
    for title, lines in sections.items():
        text += ["", f"## {title}", "", *lines] if lines else []
    return f"---\n{_front_matter(card)}\n---\n\n" + "\n".join(text) + "\n"


def _front_matter(card: Mapping[str, Any]) -> str:
    from huggingface_hub import ModelCardData

    license_name = str(card.get("license", "")).lower()
    data = ModelCardData(
        license=license_name if license_name in HUB_LICENSES else "other",
        library_name="vtcli",
        pipeline_tag="video-classification",
        datasets=[card["dataset"]] if card.get("dataset") else None,
        tags=[card["arch"]] if card.get("arch") else None,
    )
    return data.to_yaml().strip()


def _introduction(card: Mapping[str, Any]) -> list[str]:
    """Up to three lines that say what the model is."""
    lines = {
        "model": "Action recognition in video with {}, as one safetensors file.",
        "pretrain": "Pretrained on {}.",
        "notes": "{}",
    }
    return [line.format(card[key]) for key, line in lines.items() if card.get(key)]


def _table(values: Mapping[str, Any], names: Mapping[str, str] | None = None) -> list[str]:
    """A Markdown table of the values that are set, under their `names`; no lines if none are."""
    names = names if names is not None else {key: key for key in values}
    rows = [
        f"| {name} | {values[key]} |"
        for key, name in names.items()
        if values.get(key) not in (None, "")
    ]
    return ["| | |", "|---|---|", *rows] if rows else []


def _head_line(head: Mapping[str, Any]) -> str:
    order = head.get("confidence") or "unverified"
    return f"- `{head.get('name')}`: {head.get('size')} classes, class order: {order}"
