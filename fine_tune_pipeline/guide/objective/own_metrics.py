"""Metrics that a use case brings along: a folder with one Python file and one function, loaded by its path."""

import hashlib
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.fingerprint import file_sha256
from fine_tune_pipeline.spec.objective import OwnMetric
from fine_tune_pipeline.spec.use_case import UseCaseSpec

FOLDER = "metrics"
FUNCTION = "score_one"


class MissingMetric(ValueError):
    """The file or the function of a metric is not there, or the file cannot be imported."""


class MetricFailed(ValueError):
    """The function raised an error for a row."""


class BadScore(ValueError):
    """The function gave something that is no number in the declared range."""


@dataclass(frozen=True)
class OwnScore:
    """The function of one metric of the use case, loaded when first needed."""

    declared: OwnMetric
    path: Path

    @cached_property
    def function(self) -> Callable[[str, str, dict[str, Any]], Any]:
        """`score_one` of the metric's file.

        Raises:
            MissingMetric: names the file and what is wanted of it.
        """
        if not self.path.is_file():
            raise MissingMetric(
                f"{self.place}: {self.path} is not there; want a Python file with {FUNCTION}(prediction, reference, example)"
            )
        found = getattr(_module(self.path, self.place), FUNCTION, None)
        if not callable(found):
            raise MissingMetric(f"{self.place}: {self.path} has no function {FUNCTION}; define {FUNCTION}(prediction, reference, example)")
        return found

    @property
    def place(self) -> str:
        """Where the metric stands in the YAML."""
        return f"objective.metrics ({self.declared.name})"

    def score(self, prediction: str, reference: str, example: Example) -> float:
        """The function's score.

        Raises:
            MissingMetric: see `function`.
            MetricFailed, BadScore: name the row.
        """
        function = self.function
        try:
            value = function(prediction, reference, example.row())
        # Whatever a function of the user's raises, the row says why.
        except Exception as error:
            raise MetricFailed(
                f"{self.place}: {FUNCTION} failed on row {example.id} ({type(error).__name__}: {error}); want a number for any answer"
            ) from error
        return self._checked(value, example)

    def _checked(self, value: Any, example: Example) -> float:
        low, high = self.declared.low, self.declared.high
        wanted = "0 or 1" if self.declared.binary else f"a number from {low:g} to {high:g}"
        number = float(value) if isinstance(value, int | float) else math.nan
        if not low <= number <= high or (self.declared.binary and number not in (0, 1)):
            raise BadScore(
                f"{self.place}: {FUNCTION} gave {value!r} for row {example.id}, want {wanted}; correct it, or the declared range"
            )
        return number


def own_metrics(spec: UseCaseSpec) -> tuple[OwnScore, ...]:
    """The metrics that the use case declares; nothing is loaded yet."""
    return tuple(OwnScore(metric, spec.folder / FOLDER / metric.name / f"{metric.name}.py") for metric in spec.objective.metrics)


def own_code(spec: UseCaseSpec) -> dict[str, str]:
    """Metric -> hash of all files in its folder: its code belongs to the fingerprint of what is scored with it."""
    return {own.declared.name: _folder_sha256(own.path.parent) for own in own_metrics(spec)}


def scored_with(spec: UseCaseSpec) -> dict[str, Any]:
    """What a use case adds to how answers are scored, for the fingerprint of scores; nothing where it adds nothing."""
    objective = spec.objective
    own = {"objective.metrics": objective.metrics, "own_metrics_sha256": own_code(spec)} if objective.metrics else {}
    return {**({"objective.voice": objective.voice} if objective.voice else {}), **own}


def _folder_sha256(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    lines = [f"{path.relative_to(folder).as_posix()} {file_sha256(path)}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _module(path: Path, place: str) -> Any:
    found = importlib.util.spec_from_file_location(f"_own_metric_{path.stem}", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    # Whatever a file of the user's raises while it is imported.
    except Exception as error:
        raise MissingMetric(f"{place}: {path} cannot be imported ({type(error).__name__}: {error}); run it once with Python") from error
    return module
