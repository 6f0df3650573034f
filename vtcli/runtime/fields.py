"""Whether values from JSON and TOML have the types that a dataclass states.

Registry files, model cards and configurations come from outside. Only the forms of types that the
dataclasses of this package use are known: numbers, text, tables, tuples, choices and unions.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def wrong_field(kind: type[Any], values: Mapping[str, Any]) -> str:
    """The name of the first value that has not the type of its field of `kind`; "" if all have.

    Names that `kind` does not have are passed.
    """
    hints = field_types(kind)
    return next((n for n, v in values.items() if n in hints and not is_of_type(v, hints[n])), "")


def field_types(kind: Any) -> dict[str, Any]:
    """The type of each field of a dataclass."""
    return _types(kind)


_types = cache(get_type_hints)


def is_of_type(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; whole numbers count as numbers, true and false do not."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return any(type(value) is type(known) and value == known for known in arguments)
    if origin in (Union, UnionType):
        return any(is_of_type(value, choice) for choice in arguments)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        if arguments[1:] == (...,):
            arguments = (arguments[0],) * len(value)
        return len(value) == len(arguments) and all(map(is_of_type, value, arguments))
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, origin or hint)
