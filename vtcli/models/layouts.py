"""Upstream key names <-> ours: a table of rules per layout, and the two functions that obey it.

A rule names a tensor of the file and a tensor of ours; `{}` stands for a layer number. A rule
without
a name of ours lists a tensor that is not used: it is reported, and made anew on export. What no
rule names is left over, and that is an error for the caller to raise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from vtcli.errors import LayoutError


def check_image_vit(found: tuple[Any, ...], wanted: tuple[Any, ...]) -> None:
    """Raise `LayoutError` where an image ViT's (width, layers, patch) are not the model's."""
    if found != wanted:
        raise LayoutError(
            f"this image ViT has (width, layers, patch) = {found}, the model {wanted}; take one of "
            "the model's size"
        )


class Op(Protocol):
    """How the tensors of a rule become one of ours, and back, bit for bit."""

    def to_vt(self, parts: Sequence[Tensor]) -> Tensor: ...

    def from_vt(self, tensor: Tensor, config: Any) -> Sequence[Tensor]: ...


class Same:
    """The tensor as it is."""

    def to_vt(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0]

    def from_vt(self, tensor: Tensor, config: Any) -> Sequence[Tensor]:
        return [tensor]


@dataclass(frozen=True)
class Concat:
    """`count` tensors of equal size, one after the other along the first dimension (q, k, v)."""

    count: int

    def to_vt(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))

    def from_vt(self, tensor: Tensor, config: Any) -> Sequence[Tensor]:
        return tensor.chunk(self.count)


SAME = Same()
Remake = Callable[[str, Any], Tensor]
Companion = Callable[[Any, Sequence[str]], tuple[str, str]]


@dataclass(frozen=True)
class Rule:
    """One line of a layout's table.

    theirs: one foreign name, or several that become one tensor; ours: our name, None where it is
    unused;
    why: the reason it is unused; remake: (foreign name, config) -> the unused tensor, for export;
    like: for unused tensors, our pattern beside which they stand (one is made per match), "" for
    once.
    """

    theirs: str | tuple[str, ...]
    ours: str | None
    op: Op = SAME
    why: str = ""
    remake: Remake | None = None
    like: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs


def pairs(theirs: str, ours: str) -> list[Rule]:
    """The weight and the bias of one module."""
    return [Rule(f"{theirs}.{end}", f"{ours}.{end}") for end in ("weight", "bias")]


def unused(theirs: str, why: str, remake: Remake | None = None, like: str = "") -> Rule:
    """A tensor of the file that no number depends on."""
    return Rule(theirs, None, why=why, remake=remake, like=like)


@dataclass(frozen=True)
class Layout:
    """One upstream's key names for one architecture.

    signature: foreign names (patterns) that are there in every file of this layout and tell it from
    the others; absent: patterns that no file of this layout has; prefix: a prefix of the rules'
    names that files may lack; nest: what the file's tensors are wrapped in on export, outermost key
    first; suffix: file ending on export;
    sidecar: (configuration, labels) -> name and text of a file that has to lie beside it.
    """

    name: str
    rules: tuple[Rule, ...]
    signature: tuple[str, ...]
    absent: tuple[str, ...] = ()
    prefix: str = ""
    nest: tuple[str, ...] = ()
    suffix: str = ".pth"
    sidecar: Companion | None = None

    def recognizes(self, names: Iterable[str]) -> bool:
        """Whether a file with these tensor names is of this layout."""
        cleaned = {self.full_name(name) for name in names}
        return all(_any_match(p, cleaned) for p in self.signature) and not any(
            _any_match(p, cleaned) for p in self.absent
        )

    def full_name(self, name: str) -> str:
        """A tensor's name as the rules have it, whatever wrapper the file's lacks or adds."""
        name = name.removeprefix("module.")
        if not self.prefix or name.startswith(self.prefix) or self._names_bare(name):
            return name
        return self.prefix + name

    def hints(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """What shapes in the file show of the configuration that shapes under our names do not."""
        return {}

    def _names_bare(self, name: str) -> bool:
        """Whether some rule names this tensor outside the prefix (a classifier head beside
        `backbone.`).
        """
        bare = [n for rule in self.rules for n in rule.names if not n.startswith(self.prefix)]
        return any(_pattern(n).fullmatch(name) for n in bare)


@dataclass
class Mapped:
    """A file's tensors under our names, what became of each of its own names, and the layout's
    hints.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    hints: dict[str, Any] = field(default_factory=dict)


_PATTERNS: dict[str, re.Pattern[str]] = {}


def _pattern(name: str) -> re.Pattern[str]:
    """The compiled form of a name with `{}` for layer numbers."""
    if name not in _PATTERNS:
        _PATTERNS[name] = re.compile(re.escape(name).replace(r"\{\}", r"(\d+)"))
    return _PATTERNS[name]


def _any_match(pattern: str, names: Iterable[str]) -> bool:
    compiled = _pattern(pattern)
    return any(compiled.fullmatch(name) for name in names)


def to_vt(layout: Layout, tensors: dict[str, Tensor], consume: bool = False) -> Mapped:
    """Rename a file's tensors; nothing is skipped silently: see `Mapped`.

    `consume` empties `tensors` on the way, so that what is put together is not held twice.
    Raises `LayoutError` where a tensor that is stored in parts lacks one of them.
    """
    result = Mapped(hints=layout.hints(tensors))
    parts: dict[str, dict[int, tuple[str, Tensor]]] = {}
    for name in list(tensors):
        tensor = tensors.pop(name) if consume else tensors[name]
        found = _find_rule(layout, layout.full_name(name))
        if found is None:
            result.left_over.append(name)
            continue
        rule, position, numbers = found
        if rule.ours is None:
            result.dropped.append((name, rule.why))
            continue
        ours = rule.ours.format(*numbers)
        result.renamed.append((name, ours))
        have = parts.setdefault(ours, {})
        have[position] = (name, tensor)
        if len(have) == len(rule.names):
            result.tensors[ours] = rule.op.to_vt([have[i][1] for i in range(len(have))])
            del parts[ours], have
    for ours, have in parts.items():
        beside = next(iter(have.values()))[0]
        raise LayoutError(f"the file has '{beside}' but not all parts that make up '{ours}'")
    return result


def _find_rule(layout: Layout, name: str) -> tuple[Rule, int, tuple[str, ...]] | None:
    for rule in layout.rules:
        for position, theirs in enumerate(rule.names):
            match = _pattern(theirs).fullmatch(name)
            if match:
                return rule, position, match.groups()
    return None


def from_vt(layout: Layout, tensors: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """Our tensors under a layout's names, unused ones made anew where upstream's strict loader
    wants them.

    Raises `LayoutError` for a tensor of ours that the layout has no name for.
    """
    result: dict[str, Tensor] = {}
    for ours, tensor in tensors.items():
        rule, numbers = _find_reverse(layout, ours)
        foreign = rule.op.from_vt(tensor, config)
        for name, part in zip(rule.names, foreign, strict=True):
            result[name.format(*numbers)] = part
    for rule in layout.rules:
        if rule.ours is None and rule.remake is not None:
            result.update(_remade(rule, tensors, config))
    return result


def _find_reverse(layout: Layout, ours: str) -> tuple[Rule, tuple[str, ...]]:
    for rule in layout.rules:
        if rule.ours is not None:
            match = _pattern(rule.ours).fullmatch(ours)
            if match:
                return rule, match.groups()
    raise LayoutError(f"layout '{layout.name}' has no name for the tensor '{ours}'")


def _remade(rule: Rule, tensors: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    assert rule.remake is not None
    if not rule.like:
        return {rule.names[0]: rule.remake(rule.names[0], config)}
    matches = (_pattern(rule.like).fullmatch(name) for name in tensors)
    names = [rule.names[0].format(*m.groups()) for m in matches if m]
    return {name: rule.remake(name, config) for name in names}
