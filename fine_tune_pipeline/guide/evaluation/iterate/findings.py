"""What rules look at: the finished report, the use case, and what its automatic settings came to. Parts that are not there say nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fine_tune_pipeline.guide.evaluation.iterate.steps import Change
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.guide.evaluation.statistics import two_sided, wilson
from fine_tune_pipeline.spec.fields import value_at
from fine_tune_pipeline.spec.use_case import UseCaseSpec

LEVEL = 0.95
"""Of the two-sided intervals that are told."""


@dataclass(frozen=True)
class Findings:
    """`planned` holds `technique` and `training` of the adapter, every setting as a number; `other_bases` is what step 2 ranks after its
    choice."""

    report: Mapping[str, Any]
    spec: UseCaseSpec
    planned: Mapping[str, Any] = field(default_factory=dict)
    other_bases: Sequence[Mapping[str, Any]] = ()

    @property
    def metric(self) -> str:
        """The one that the objective is about."""
        return self.report["primary_metric"]

    @property
    def training(self) -> Mapping[str, Any]:
        return self.report["training"]

    @property
    def minutes(self) -> float:
        """Of the training that was judged."""
        return self.training["seconds"] / 60

    @property
    def met(self) -> bool:
        return all(verdict["verdict"] == "met" for verdict in self.report["verdicts"])

    @property
    def missed(self) -> bool:
        return any(verdict["verdict"] == "not met" for verdict in self.report["verdicts"])

    @property
    def epochs(self) -> float | None:
        """Passes over the training rows; None where it is not known."""
        planned = (self.planned.get("training") or {}).get("epochs")
        rows = self.training.get("rows") or 0
        return planned if planned is not None else (self.training.get("passes_rows") or 0) / rows if rows else None

    def gain(self, over: str) -> Mapping[str, Any] | None:
        """Of the fine-tuned model in the metric: `estimate`, `low`, `high`, one-sided `lower` and `upper`; None if there is none."""
        return next((gain for gain in self.report["gains"] if gain["over"] == over and gain["metric"] == self.metric), None)

    def figure(self, metric: str, system: str = FINE_TUNED) -> Mapping[str, Any] | None:
        return self.report["systems"].get(system, {}).get(metric)

    def missing(self, system: str) -> set[str]:
        """Criteria that a system is not shown to meet; empty where that was not looked at."""
        lines = (self.report.get("recommendation") or {}).get("seen") or []
        return {criterion for line in lines if line["system"] == system for criterion in line["missing"]}

    def part(self, name: str) -> Mapping[str, Any]:
        """A part of the error analysis; empty where it was not made."""
        found = (self.report.get("analysis") or {}).get(name)
        return found if isinstance(found, Mapping) else {}

    def change(self, path: str, after: Any) -> Change:
        return Change(path, value_at(self.spec, path), after)

    def low_rank(self) -> int | None:
        """The rank of the adapter; None where all weights were trained, or nothing is known."""
        planned = self.planned.get("technique") or {}
        return planned.get("rank") if planned.get("type") in ("lora", "qlora") else None

    def rank_change(self, rank: int) -> tuple[Change, ...]:
        """Another rank: of an automatic choice the technique is written down with it, since nothing else can hold it."""
        if self.spec.technique.type in ("lora", "qlora"):
            return (self.change("technique.rank", rank),)
        if self.spec.technique.type == "auto":
            return (self.change("technique", {"type": self.planned["technique"]["type"], "rank": rank}),)
        return ()


def told(value: Mapping[str, Any], n: int) -> str:
    """An estimate with its interval and rows, such as `0.42 [0.35, 0.49], n = 200`."""
    low, high = ("–" if value.get(name) is None else f"{value[name]:.3f}" for name in ("low", "high"))
    return f"{value['estimate']:.3f} [{low}, {high}], n = {value.get('n') or n}"


def share(count: float, rows: int, level: float = LEVEL) -> dict[str, Any]:
    """A share with Wilson's two-sided interval."""
    found = wilson(count, rows, two_sided(level))
    return {"estimate": found.estimate, "low": found.lower, "high": found.upper, "n": rows}
