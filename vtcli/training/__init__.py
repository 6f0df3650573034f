"""Fine-tuning: recipes, plans, the loop, and the `Callback` that follows it."""

from vtcli.training.callbacks import Callback, RunInfo

__all__ = ["Callback", "RunInfo"]
