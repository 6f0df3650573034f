"""Push a converted checkpoint to the Hugging Face Hub, in our form or in transformers'.

All texts are made from the card in the file's metadata (`vtcli/weights/checkpoint.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vtcli.errors import UsageError, WeightsError
from vtcli.runtime.files import file_sha256
from vtcli.weights.checkpoint import CARD_KEY, WEIGHTS_FILE, read_card, read_header, upgrade
from vtcli.weights.download_errors import (
    GO_ONLINE,
    SourceError,
    another_token,
    explain,
    hub_host,
)

OUR_FORM = "vt"
RIGHT = "write permission"
FORMS = (OUR_FORM, "transformers")


def push(
    path: Path, repo: str, *, private: bool = False, form: str = OUR_FORM, token: str | None = None
) -> str:
    """Upload a converted file, its configuration and `README.md` in one commit; returns the URL.

    form: `vt` (the file and its card as `config.json`) or `transformers`, for a ViViT: what that
        library reads, and our card as `vt.json`.

    The repository is created if needed. Raises `InputError` for a missing file, `UsageError` for a
    model that the form does not have, and `WeightsError` for a file without a model card, a missing
    or refused token, and any failed transfer.
    """
    import huggingface_hub as hub

    from vtcli.weights.formats.transformers_repo import CONFIG
    from vtcli.weights.model_card import Pushed, model_card
    from vtcli.weights.transformers_form import write_form

    check_form(form)
    card = _card(path)
    if token is None and hub.get_token() is None:
        raise WeightsError(f"cannot push to {repo}: no token; {another_token(RIGHT)}")
    with TemporaryDirectory(prefix="vt-push-") as folder:
        if form == OUR_FORM:
            text = json.dumps(card, indent=2, ensure_ascii=False)
            contents: dict[str, Path | bytes] = {WEIGHTS_FILE: path, CONFIG: text.encode()}
        else:
            contents = write_form(path, read_card(path), Path(folder))
        weights = contents[WEIGHTS_FILE]
        pushed = Pushed(repo, form, file_sha256(weights) if isinstance(weights, Path) else "")
        contents["README.md"] = model_card(card, pushed).encode()
        message = f"Upload {card.get('id') or repo}"
        return commit_files(repo, contents, message, private=private, token=token)


def check_form(form: str) -> None:
    """Raise `UsageError` for a form that no repository has."""
    if form not in FORMS:
        raise UsageError(f"--form is {' or '.join(FORMS)}, not '{form}'")


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
        hub_host()
        url = api.create_repo(repo, private=private, exist_ok=True)
        with _without_client_lines():
            api.create_commit(url.repo_id, operations, commit_message=message)
    except SourceError as error:
        raise WeightsError(f"cannot push to {repo}: {error}; {error.hint}") from error
    except HFValidationError as error:
        raise WeightsError(f"cannot push to '{repo}': write the repository as org/name") from error
    # The Hub's client reports a rejected model card as ValueError, a broken upload as RuntimeError.
    except (OSError, RuntimeError, ValueError, HTTPError) as error:
        raise WeightsError(f"cannot push to {repo}: {_reason(error)}") from error
    return str(url)


@contextmanager
def _without_client_lines() -> Iterator[None]:
    """Inside, the Hub's client prints no progress of its own."""
    from huggingface_hub import utils

    if utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


def _card(path: Path) -> dict[str, Any]:
    text = read_header(path).get("__metadata__", {}).get(CARD_KEY)
    if text is None:
        raise WeightsError(f"{path} is not a converted checkpoint; make one with `vt convert`")
    return upgrade(json.loads(text))


def _reason(error: Exception) -> str:
    """Why the Hub refused the upload, and the fix."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return f"the Hub does not accept the token; {another_token(RIGHT)}"
    if status == 403:
        return f"the token has no write permission there; {another_token(RIGHT)}"
    if isinstance(error, ValueError):
        return f"the Hub rejects the model card: {' '.join(str(error).split())}"
    failure = explain(error, hub_host())
    if failure.hint == GO_ONLINE:
        return f"offline mode is on (HF_HUB_OFFLINE); {GO_ONLINE}"
    return f"{failure}; {failure.hint}"
