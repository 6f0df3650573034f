"""What a training needs to go on as if it had never stopped: how far it is, and what it holds.

It holds the weights, their moving average and the optimizer's memory, and a few numbers. Learning
rates and everything random are functions of the position and the seed, so no generator has to be
kept. `state_files` says where it all is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from vtcli.training.checkpoint import SavedState


@dataclass
class RunningTotals:
    """What an epoch's clips added up to so far, over all processes."""

    loss: float = 0.0
    right: float = 0.0
    clips: int = 0
    failed: int = 0
    short: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, other: RunningTotals) -> None:
        """Add another's figures; times are those of the process that asks."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class TrainPosition:
    """How far a training is: `update` of `epoch` is the next one, `done` counts all so far.

    `history` holds one row per finished epoch, `best` the number of the best one.
    """

    epoch: int = 0
    update: int = 0
    done: int = 0
    best: int = -1
    sums: RunningTotals = field(default_factory=RunningTotals)
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> TrainPosition:
        """What `asdict` made of one."""
        return cls(**{**table, "sums": RunningTotals(**table["sums"])})


class TrainState:
    """All that changes while a training runs, besides its position.

    `names` are those of the parameters that the optimizer changes, group by group.
    """

    def __init__(
        self, model: nn.Module, ema: Any, optimizer: Optimizer, names: Sequence[str], scaler: Any
    ) -> None:
        self.model, self.ema, self.optimizer, self.scaler = model, ema, optimizer, scaler
        self.names = names

    def tensors(self) -> dict[str, Tensor]:
        """The tensors themselves, whole or this process's shards, named PART.NAME."""
        parts = {"model": self.model.state_dict()}
        if self.ema is not None:
            parts["ema"] = self.ema.module.state_dict()
        parts["optimizer"] = {
            key: table[name] for key, table, name in self._kept() if _is_tensor(table[name])
        }
        return {
            f"{part}.{name}": tensor.detach()
            for part, held in parts.items()
            for name, tensor in held.items()
        }

    def values(self) -> dict[str, Any]:
        """What is no tensor; JSON-able."""
        numbers = {
            key: table[name] for key, table, name in self._kept() if not _is_tensor(table[name])
        }
        return {"optimizer": numbers, "scaler": self.scaler.state_dict()}

    def load_state_dict(self, stored: SavedState) -> None:
        """Hold what is stored; all processes have to do so."""
        numbers, start = stored.values["optimizer"], "optimizer."
        kept = {name.removeprefix(start) for name in stored.names if name.startswith(start)}
        self._make_room(kept | numbers.keys())
        stored.read_into(self.tensors())
        for key, table, name in list(self._kept()):
            if key in numbers:
                table[name] = numbers[key]
        self.scaler.load_state_dict(stored.values["scaler"])

    def _kept(self) -> Iterator[tuple[str, dict[str, Any], str]]:
        """All that the optimizer keeps of parameters, and some of groups: OWNER.NAME, and where."""
        memory = self.optimizer.state_dict()["state"]
        for number, owner in enumerate(self.names):
            table = memory.get(number, {})
            yield from ((f"{owner}.{name}", table, name) for name in table)
        for number, group in enumerate(self.optimizer.param_groups):
            counts = [name for name in group if name.endswith("step")]
            yield from ((f"group{number}.{name}", group, name) for name in counts)

    def _make_room(self, keys: set[str]) -> None:
        """Let the optimizer keep these: an update by nothing makes all that it usually keeps."""
        import torch

        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()
        wanted: dict[str, list[str]] = {}
        for key in sorted(keys):  # all processes have to fill the same tensors in the same order
            owner, name = key.rsplit(".", 1)
            wanted.setdefault(owner, []).append(name)
        table = self.optimizer.state_dict()
        made, table["state"] = table["state"], {}
        for number, (owner, parameter) in enumerate(zip(self.names, parameters, strict=True)):
            if owner in wanted:  # others never had a gradient
                memory = table["state"][number] = dict(made.get(number, {}))
                for name in wanted[owner]:
                    if name not in memory:
                        memory[name] = torch.zeros_like(parameter)
        self.optimizer.load_state_dict(table)


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)
