"""Upstream tensor names <-> ours: a table of rules per layout, and the two functions that apply it.

A rule maps a tensor of an upstream file to one of ours; `{}` stands for a layer number. A rule
without a name of ours lists an unused tensor: it is reported on import and recreated on export. A
tensor that no rule names is unexpected, for which the caller raises an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from vtcli.errors import LayoutError


def check_image_vit(actual: tuple[Any, ...], expected: tuple[Any, ...]) -> None:
    """Raise `LayoutError` if an image ViT's (width, layers, patch) are not those of the model."""
    if actual != expected:
        raise LayoutError(
            f"this image ViT has (width, layers, patch) = {actual}, the model {expected}; use one "
            "of the model's size"
        )


class Op(Protocol):
    """How the upstream tensors of a rule become one of ours, and back, bit for bit."""

    def to_vt(self, parts: Sequence[Tensor]) -> Tensor: ...

    def from_vt(self, tensor: Tensor, config: Any) -> Sequence[Tensor]: ...


class Same:
    """The tensor unchanged."""

    def to_vt(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0]

    def from_vt(self, tensor: Tensor, config: Any) -> Sequence[Tensor]:
        return [tensor]


@dataclass(frozen=True)
class Concat:
    """`count` tensors of equal size, concatenated along the first dimension (q, k, v)."""

    count: int

    def to_vt(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))

    def from_vt(self, tensor: Tensor, config: Any) -> Sequence[Tensor]:
        return tensor.chunk(self.count)


SAME = Same()
Recreate = Callable[[str, Any], Tensor]
Sidecar = Callable[[Any, Sequence[str], bool], tuple[str, str]]


@dataclass(frozen=True)
class Rule:
    """One line of a layout's table.

    upstream: an upstream name, or several whose tensors become one; vt: our name, None for an
    unused tensor; op: the conversion between them.
    For unused tensors: why: the reason; recreate: (upstream name, config) -> the tensor, for
    export; like: a pattern of our names, one tensor being recreated per match ("": just one).
    """

    upstream: str | tuple[str, ...]
    vt: str | None
    op: Op = SAME
    why: str = ""
    recreate: Recreate | None = None
    like: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.upstream,) if isinstance(self.upstream, str) else self.upstream


def pairs(upstream: str, vt: str) -> list[Rule]:
    """The weight and the bias of one module."""
    return [Rule(f"{upstream}.{end}", f"{vt}.{end}") for end in ("weight", "bias")]


def unused(upstream: str, why: str, recreate: Recreate | None = None, like: str = "") -> Rule:
    """A tensor of the file on which no output depends."""
    return Rule(upstream, None, why=why, recreate=recreate, like=like)


@dataclass(frozen=True)
class Layout:
    """One upstream's tensor names for one architecture.

    signature: patterns of upstream names that every file of this layout has and that distinguish it
    from the others; absent: patterns that no file of this layout has; prefix: a prefix of the
    rules' names that files may lack; wrapper_keys: the keys under which the tensors are stored on
    export, outermost first; suffix: the file extension on export; sidecar: (configuration, labels)
    -> name and text of a file that must be next to the weights.
    """

    name: str
    rules: tuple[Rule, ...]
    signature: tuple[str, ...]
    absent: tuple[str, ...] = ()
    prefix: str = ""
    wrapper_keys: tuple[str, ...] = ()
    suffix: str = ".pth"
    sidecar: Sidecar | None = None

    def recognizes(self, names: Iterable[str]) -> bool:
        """Whether a file with these tensor names is of this layout."""
        cleaned = {self.full_name(name) for name in names}
        return all(_any_match(p, cleaned) for p in self.signature) and not any(
            _any_match(p, cleaned) for p in self.absent
        )

    def full_name(self, name: str) -> str:
        """A tensor's name as the rules spell it, whatever prefix the file's name has or lacks."""
        name = name.removeprefix("module.")
        if not self.prefix or name.startswith(self.prefix) or self._has_no_prefix(name):
            return name
        return self.prefix + name

    def hints(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Configuration fields that only the shapes under upstream names show."""
        return {}

    def _has_no_prefix(self, name: str) -> bool:
        """Whether a rule has this name without the prefix, such as a classifier's."""
        bare = [n for rule in self.rules for n in rule.names if not n.startswith(self.prefix)]
        return any(_pattern(n).fullmatch(name) for n in bare)


@dataclass
class Mapped:
    """A file's tensors under our names, and what became of each upstream name.

    renamed: (upstream name, our name); dropped: (upstream name, why it is unused); unexpected:
    upstream names that no rule has; hints: see `Layout.hints`.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    hints: dict[str, Any] = field(default_factory=dict)


_PATTERNS: dict[str, re.Pattern[str]] = {}


def _pattern(name: str) -> re.Pattern[str]:
    """A name with `{}` for layer numbers as a regular expression."""
    if name not in _PATTERNS:
        _PATTERNS[name] = re.compile(re.escape(name).replace(r"\{\}", r"(\d+)"))
    return _PATTERNS[name]


def _any_match(pattern: str, names: Iterable[str]) -> bool:
    compiled = _pattern(pattern)
    return any(compiled.fullmatch(name) for name in names)


def to_vt(layout: Layout, tensors: dict[str, Tensor], consume: bool = False) -> Mapped:
    """Rename a file's tensors; every upstream name ends up in one of the lists of `Mapped`.

    `consume` removes tensors from the given dict as they are used, which halves the peak memory.
    Raises `LayoutError` if a tensor that is stored in parts lacks one of them.
    """
    result = Mapped(hints=layout.hints(tensors))
    parts: dict[str, dict[int, tuple[str, Tensor]]] = {}
    for name in list(tensors):
        tensor = tensors.pop(name) if consume else tensors[name]
        found = _find_rule(layout, layout.full_name(name))
        if found is None:
            result.unexpected.append(name)
            continue
        rule, position, numbers = found
        if rule.vt is None:
            result.dropped.append((name, rule.why))
            continue
        vt = rule.vt.format(*numbers)
        result.renamed.append((name, vt))
        found_parts = parts.setdefault(vt, {})
        found_parts[position] = (name, tensor)
        if len(found_parts) == len(rule.names):
            in_order = [found_parts[i][1] for i in range(len(found_parts))]
            result.tensors[vt] = rule.op.to_vt(in_order)
            del parts[vt], found_parts, in_order
    for vt, found_parts in parts.items():
        name = next(iter(found_parts.values()))[0]
        raise LayoutError(f"the file has '{name}' but not all parts that make up '{vt}'")
    return result


def _find_rule(layout: Layout, name: str) -> tuple[Rule, int, tuple[str, ...]] | None:
    for rule in layout.rules:
        for position, upstream in enumerate(rule.names):
            match = _pattern(upstream).fullmatch(name)
            if match:
                return rule, position, match.groups()
    return None


def from_vt(layout: Layout, tensors: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """Our tensors under a layout's names, and unused ones that upstream's strict loader expects.

    Raises `LayoutError` for a tensor of ours that the layout has no name for.
    """
    result: dict[str, Tensor] = {}
    for vt, tensor in tensors.items():
        rule, numbers = _find_reverse(layout, vt)
        for name, part in zip(rule.names, rule.op.from_vt(tensor, config), strict=True):
            result[name.format(*numbers)] = part
    for rule in layout.rules:
        if rule.vt is None and rule.recreate is not None:
            result.update(_recreate(rule, rule.recreate, tensors, config))
    return result


def _find_reverse(layout: Layout, vt: str) -> tuple[Rule, tuple[str, ...]]:
    for rule in layout.rules:
        if rule.vt is not None:
            match = _pattern(rule.vt).fullmatch(vt)
            if match:
                return rule, match.groups()
    raise LayoutError(f"layout '{layout.name}' has no name for the tensor '{vt}'")


def _recreate(
    rule: Rule, recreate: Recreate, tensors: Mapping[str, Tensor], config: Any
) -> dict[str, Tensor]:
    """The unused tensors of one rule, by upstream name."""
    if not rule.like:
        return {rule.names[0]: recreate(rule.names[0], config)}
    matches = (_pattern(rule.like).fullmatch(name) for name in tensors)
    names = [rule.names[0].format(*m.groups()) for m in matches if m]
    return {name: recreate(name, config) for name in names}
