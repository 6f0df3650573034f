"""Read PyTorch pickles without running anything in them: `torch.load` with `weights_only=True`.

Training scripts store records next to the weights: paths, dates, argument namespaces, configuration
objects. Each class that such a record names is replaced by an inert shell, which is never imported
and does nothing. Functions, and classes of Python's library that do more than hold values, are
refused. PyTorch's unpickler names the first class that it does not know, so the file is opened
again with one more shell until it can be read.
"""

from __future__ import annotations

import pickle
import re
import sys
import warnings
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from pathlib import Path
from typing import Any

from vtcli.errors import UnsafeFileError, WeightsError

MAX_SHELLS = 256
# Names of Python's library that only hold values.
HARMLESS = frozenset(
    {
        *("builtins." + name for name in ("bool", "bytes", "dict", "float", "frozenset", "int")),
        *("builtins." + name for name in ("list", "object", "range", "set", "slice", "str")),
        *("builtins.tuple", "copyreg._reconstructor", "argparse.Namespace"),
        *("types.SimpleNamespace", "decimal.Decimal", "fractions.Fraction", "uuid.UUID"),
        *("uuid.SafeUUID", "random.Random", "typing.Any", "enum.Enum", "string.Template"),
        *("time.struct_time", "ipaddress.IPv4Address", "array.array"),
    }
)
HARMLESS_MODULES = ("pathlib", "datetime", "collections", "zoneinfo")
# Functions of other packages that rebuild a value.
REBUILD = frozenset(
    {
        *("_reconstruct", "scalar", "dtype", "ndarray", "_frombuffer", "__randomstate_ctor"),
        *("__generator_ctor", "__bit_generator_ctor", "_unpickle_timestamp", "_unpickle_block"),
    }
)
_MODULE_CLASSES = ("torch.nn.", "torchvision.models.", "timm.models.", "torch.jit.", "torch.fx.")
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_WRONG_KIND = re.compile(r"Can only (append|SETITEM).* got <class '[\w.]*?shell of ([\w.]+)'>")


class _Shell:
    """Replaces a record whose content is not needed."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __hash__(self) -> int:
        return id(self)


class _ListShell(list[Any]):
    """Replaces a list of another class; keeps its items."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None: ...


class _DictShell:
    """Replaces a dictionary of another class by one of the library; keeps its items."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return OrderedDict()


def load_pickle(path: Path, mmap: bool) -> Any:
    """The content of a file that `torch.save` wrote; records of unknown classes are shells.

    Raises `UnsafeFileError` for a file that names anything but tensors and inert records, and
    `WeightsError` for a damaged one.
    """
    import torch

    shells: dict[str, type[Any]] = {}
    while True:
        known: list[Any] = [(shell, name) for name, shell in shells.items()]
        try:
            with torch.serialization.safe_globals(known), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap or None)
        except pickle.UnpicklingError as error:
            name, kind = _needed_shell(path, str(error))
            if issubclass(shells.get(name, object), kind) or len(shells) >= MAX_SHELLS:
                raise WeightsError(
                    f"{path} has a record of the class {name} that cannot be read; save "
                    "model.state_dict() alone"
                ) from error
            shells[name] = type(f"shell of {name}", (kind,), {})
        except (
            RuntimeError,
            EOFError,
            ValueError,
            LookupError,
            AttributeError,
            TypeError,
        ) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise WeightsError(
                f"{path} is truncated or damaged ({reason}); download it again"
            ) from error


def _needed_shell(path: Path, message: str) -> tuple[str, type[Any]]:
    """The name that PyTorch's unpickler does not accept, and the kind of shell for it.

    Raises `UnsafeFileError` if it is not the name of a record.
    """
    if wrong := _WRONG_KIND.search(message):
        return wrong[2], _ListShell if wrong[1] == "append" else _DictShell
    found = _GLOBAL.search(message)
    if found is None:
        if "operand" in message or "protocol" in message.lower():
            raise WeightsError(
                f"{path} is a pickle that torch.save did not write, or of another protocol than "
                "its default; write it again with torch.save(state_dict, FILE)"
            )
        raise WeightsError(f"{path} is not a readable PyTorch checkpoint; download it again")
    name = found[1] if "." in found[1] else f"builtins.{found[1]}"
    if name.startswith(_MODULE_CLASSES):
        raise UnsafeFileError(
            f"{path} has a whole model (its class {name} is code), not a state dict; load it where "
            "it was made and save model.state_dict() with torch.save"
        )
    if not _is_record(name):
        raise UnsafeFileError(
            f"{path} would run '{name}' while it is read, so it was refused, because a checkpoint "
            "needs tensors only; use the same weights as safetensors"
        )
    kind = _DictShell if name in ("collections.defaultdict", "collections.UserDict") else _Shell
    return name, _ListShell if name == "collections.deque" else kind


def _is_record(name: str) -> bool:
    """Whether a name is that of a class that holds values; such a class is never imported."""
    module, _, last = name.rpartition(".")
    # A pickle of protocol 2 has the names of Python 2, such as `commands` for `subprocess`.
    module, last = NAME_MAPPING.get((module, last), (IMPORT_MAPPING.get(module, module), last))
    name, root = f"{module}.{last}", module.split(".")[0]
    if name in HARMLESS or root in HARMLESS_MODULES:
        return True
    if root in sys.stdlib_module_names and root != "__main__":
        return False
    return last[:1].isupper() or last in REBUILD or last.lstrip("_")[:1].isupper()
