"""The accuracy of a model on a labeled dataset. The public class is `Evaluator`:

    plan = plan_evaluation(open_dataset("k400"), "uniformerv2-b", EvalSettings(views="4x3"))
    evaluator = Evaluator(plan, Path("runs/k400"))
    evaluator.run()
    report = evaluator.conclude()

Everything is imported on first use, so that `vtcli.evaluation.results` does not load the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_MODULES = {
    "EvalPlan": "vtcli.evaluation.plan",
    "EvalSettings": "vtcli.evaluation.plan",
    "EvaluationReport": "vtcli.evaluation.results",
    "Evaluator": "vtcli.evaluation.evaluator",
    "plan_evaluation": "vtcli.evaluation.plan",
}
__all__ = ["EvalPlan", "EvalSettings", "EvaluationReport", "Evaluator", "plan_evaluation"]

if TYPE_CHECKING:
    from vtcli.evaluation.evaluator import Evaluator
    from vtcli.evaluation.plan import EvalPlan, EvalSettings, plan_evaluation
    from vtcli.evaluation.results import EvaluationReport


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'vtcli.evaluation' has no attribute '{name}'")
