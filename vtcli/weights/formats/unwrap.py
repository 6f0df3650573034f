"""Find the weights in what a training loop saved: under which key and prefixes, raw or EMA.

A training checkpoint is a tree of dictionaries. Every dictionary with tensors is a candidate; names
lose the prefixes of wrappers (torch.compile, DataParallel, Lightning). The candidate whose names
fit a known layout is the one with the weights. Nothing is dropped silently: what is left out is
listed with the reason.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vtcli.errors import UsageError, WeightsError

# Keys under which upstreams store the weights in a training checkpoint, in search order.
STATE_DICT_KEYS = (
    *("state_dict", "model_state", "model_state_dict", "model", "module", "net", "network"),
    *("weights", "state_dict_ema", "model_ema", "ema", "params"),
)
Fits = Callable[[Mapping[str, Tensor]], bool]

_MAX_DEPTH = 8
_MAX_NODES = 20_000
_OPTIMIZER = re.compile(r"optim|scheduler|scaler|exp_avg|momentum|param_groups", re.IGNORECASE)
_EMA = re.compile(r"(^|[_.])(ema|averaged|swa|shadow)([_.]|$)|^ema|ema$", re.IGNORECASE)
# Wrappers that insert a segment anywhere in a name.
_INSERTED = re.compile(r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_COUNTERS = frozenset({"n_averaged", "num_updates", "decay", "updates", "initted", "step"})
_COUNTER = "counts the steps of an average; no output depends on it"
_OTHER_COPY = "belongs to the EMA weights; --ema converts these instead"
_RAW_COPY = "belongs to the raw weights; without --ema these are converted"


@dataclass
class Found:
    """The weights of a file.

    tensors: by their names without wrappers; keys: what leads to them, joined by "."; unused:
    (name, reason) of tensors beside them; note: which of several copies was chosen, "" if there is
    one.
    """

    tensors: dict[str, Tensor]
    keys: str = ""
    is_ema: bool = False
    unused: list[tuple[str, str]] = field(default_factory=list)
    note: str = ""


def find_weights(path: Path, content: Any, fits: Fits | None = None, ema: bool = False) -> Found:
    """The weights in a file's content.

    fits: whether tensor names are those of a known layout; None takes the first of
    `STATE_DICT_KEYS`. ema: take the EMA copy. Raises `WeightsError` where there are no weights or
    several that could be meant, and `UsageError` where `ema` asks for weights that are not there.
    """
    found = [
        candidate
        for keys, tensors in _tensor_dicts(content)
        for candidate in _candidates(keys, tensors, fits)
    ]
    weights = [c for c in found if not _OPTIMIZER.search(c.keys)]
    if not weights:
        raise WeightsError(_no_weights(path, content, bool(found)))
    fitting = [c for c in weights if fits is None or fits(c.tensors)]
    raw = _distinct([c for c in fitting if not c.is_ema])
    averaged = _distinct([c for c in fitting if c.is_ema])
    if ema and not averaged:
        raise UsageError(f"{path} has no EMA weights; leave --ema out")
    chosen = averaged if ema or not raw else raw
    if not chosen:
        return max(weights, key=lambda c: len(c.tensors))
    result = _one(path, chosen, fits)
    if raw and averaged:
        used = f"the EMA weights under '{result.keys}' are used"
        if not ema:
            used = "the raw weights are used; --ema takes the others"
        result.note = f"{path} has raw weights and EMA weights: {used}"
    elif averaged:
        result.note = f"{path} has only EMA weights, under '{result.keys}'; these are used"
    return result


def _one(path: Path, candidates: list[Found], fits: Fits | None) -> Found:
    """The only candidate, or the one under the first of the usual keys."""
    if len(candidates) == 1:
        return candidates[0]
    order = {key: rank for rank, key in enumerate(STATE_DICT_KEYS)}
    ranks = [min((order.get(k, 99) for k in c.keys.split(".")), default=99) for c in candidates]
    best = min(ranks)
    if ranks.count(best) > 1 and fits is not None:
        places = ", ".join(f"'{c.keys}'" for c in candidates)
        raise WeightsError(
            f"{path} has several models that fit, under {places}; save the one you want alone with "
            "torch.save"
        )
    result = candidates[ranks.index(best)]
    if fits is not None:
        others = ", ".join(f"'{c.keys}'" for c in candidates if c is not result)
        result.note = f"{path}: the weights under '{result.keys}' are used, not {others}"
    return result


def _distinct(candidates: list[Found]) -> list[Found]:
    """Without candidates that are the same tensors under another key."""
    seen: dict[tuple[Any, ...], Found] = {}
    for candidate in candidates:
        place = tuple(sorted((n, _place(t), str(t.dtype)) for n, t in candidate.tensors.items()))
        seen.setdefault(place, candidate)
    return list(seen.values())


def _place(tensor: Tensor) -> int:
    """Where its values are in memory; a sparse tensor has several places."""
    return tensor.data_ptr() if tensor.layout is torch.strided else id(tensor)


def _tensor_dicts(content: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every dictionary with tensors, and the keys that lead to it, outermost first."""
    queue: deque[tuple[str, Any, int]] = deque([("", content, 0)])
    seen: set[int] = set()
    while queue and len(seen) < _MAX_NODES:
        keys, node, depth = queue.popleft()
        if id(node) in seen or depth > _MAX_DEPTH:
            continue
        seen.add(id(node))
        table = _as_table(node)
        tensors = {k: v for k, v in table.items() if isinstance(v, Tensor)}
        if tensors and (not isinstance(node, list | tuple) or _is_pairs(node)):
            yield keys, tensors
        for key, value in table.items():
            if isinstance(value, Mapping | list | tuple):
                queue.append((f"{keys}.{key}" if keys else key, value, depth + 1))


def _is_pairs(node: Any) -> bool:
    return all(isinstance(p, tuple) and len(p) == 2 and isinstance(p[0], str) for p in node)


def _as_table(node: Any) -> dict[str, Any]:
    """A dictionary, a list of (name, value) pairs or a short list as a table."""
    if isinstance(node, Mapping):
        return {str(key): value for key, value in node.items()}
    if isinstance(node, list | tuple) and node:
        if _is_pairs(node):
            return dict(node)
        return {str(i): v for i, v in enumerate(node[:64]) if isinstance(v, Mapping)}
    return {}


def _candidates(keys: str, tensors: dict[str, Tensor], fits: Fits | None) -> Iterator[Found]:
    """The raw weights of a dictionary, and the EMA copy that may be stored between them."""
    unused = [(n, _COUNTER) for n, t in tensors.items() if _is_counter(n, t)]
    rest = {n: t for n, t in tensors.items() if not _is_counter(n, t)}
    raw = {n: t for n, t in rest.items() if not _EMA.search(n.split(".")[0])}
    marked = {n: t for n, t in rest.items() if n not in raw}
    is_ema = bool(_EMA.search(keys))
    if not raw or not marked:
        for prefix, model in _models(rest, fits):
            places = [key for key in (keys, prefix) if key]
            yield Found(model, ".".join(places), is_ema or bool(marked), unused)
        return
    plain, copy_keys = _unwrapped(raw, fits), f"{keys}.ema" if keys else "ema"
    copy = _unwrapped(_ema_names(marked, [*raw, *plain]), fits)
    yield Found(plain, keys, is_ema, [*unused, *_why(list(marked), _OTHER_COPY)])
    yield Found(copy, copy_keys, True, [*unused, *_why(list(raw), _RAW_COPY)])


def _why(names: list[str], reason: str) -> list[tuple[str, str]]:
    return [(name, reason) for name in names]


def _is_counter(name: str, tensor: Tensor) -> bool:
    return tensor.numel() == 1 and name.split(".")[-1] in _COUNTERS


def _ema_names(marked: Mapping[str, Tensor], raw: list[str]) -> dict[str, Tensor]:
    """The tensors of an EMA copy by the names of the raw weights.

    A copy whose names were flattened (`ema_` and the name with `_` or nothing for `.`) gets its
    names back.
    """
    flat = {n.replace(".", dot): n for dot in ("_", "") for n in raw}
    copy: dict[str, Tensor] = {}
    for name, tensor in marked.items():
        first, _, rest = name.partition(".")
        plain = rest or re.sub(r"^(model_)?ema_", "", first)
        copy[flat.get(plain, plain)] = tensor
    return copy


def _unwrapped(tensors: dict[str, Tensor], fits: Fits | None) -> dict[str, Tensor]:
    """The tensors without the prefixes of wrappers; of several models, the first."""
    return _models(tensors, fits)[0][1]


def _models(tensors: dict[str, Tensor], fits: Fits | None) -> list[tuple[str, dict[str, Tensor]]]:
    """The tensors without the prefixes of wrappers, as far as the names of a layout need it.

    More than one where groups under several prefixes fit, such as a student and its teacher: then
    each with its prefix.
    """
    names = {_INSERTED.sub("", name): tensor for name, tensor in tensors.items()}
    if len(names) < len(tensors):
        return [("", tensors)]
    while fits is None or not fits(names):
        heads = {name.partition(".")[0] for name in names if "." in name}
        common = len(heads) == 1 and all("." in name for name in names)
        if not common or (fits is None and heads != {"module"}):
            break
        names = {name.partition(".")[2]: tensor for name, tensor in names.items()}
    if fits is None or fits(names):
        return [("", names)]
    groups = {
        prefix: {n.removeprefix(prefix): t for n, t in names.items() if n.startswith(prefix)}
        for prefix in _fitting_prefixes(names, fits)
    }
    if len(groups) > 1:
        return [(prefix[:-1], group) for prefix, group in groups.items()]
    for prefix, group in groups.items():
        # All other tensors keep their names: they are reported.
        names = {**group, **{n: t for n, t in names.items() if not n.startswith(prefix)}}
    return [("", names)]


def _fitting_prefixes(names: Mapping[str, Tensor], fits: Fits) -> list[str]:
    """The shortest prefixes under which names are those of a layout, the most frequent first."""
    counts: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        for depth in range(1, min(len(parts), 4)):
            prefix = ".".join(parts[:depth]) + "."
            counts[prefix] = counts.get(prefix, 0) + 1
    found: list[str] = []
    for prefix in sorted(counts, key=lambda prefix: (-counts[prefix], len(prefix)))[:16]:
        group = {n.removeprefix(prefix): t for n, t in names.items() if n.startswith(prefix)}
        if not prefix.startswith(tuple(found)) and fits(group):
            found.append(prefix)
    return found


def _no_weights(path: Path, content: Any, has_tensors: bool) -> str:
    if has_tensors:
        return (
            f"{path} has an optimizer's state but no weights; name the file that has the model's "
            "weights"
        )
    if isinstance(content, Tensor) or (
        isinstance(content, Mapping | list | tuple)
        and any(
            isinstance(v, Tensor) or (isinstance(v, list | tuple) and _has_tensor(v))
            for v in (content.values() if isinstance(content, Mapping) else content)
        )
    ):
        return (
            f"{path} has tensors without names, which no model can use; save model.state_dict() "
            "with torch.save"
        )
    return (
        f"{path} holds no tensors, neither at the top nor under any key; name a file with weights"
    )


def _has_tensor(values: Any) -> bool:
    return any(isinstance(value, Tensor) for value in values)
