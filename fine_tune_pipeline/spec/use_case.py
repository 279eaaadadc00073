"""A use case: one YAML file, eight sections in the order of the guide."""

import os
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, PrivateAttr, model_validator

from fine_tune_pipeline.spec.base import Section
from fine_tune_pipeline.spec.base_model import BaseModelSpec, model_names
from fine_tune_pipeline.spec.dataset import DatasetSpec, PiiSpec
from fine_tune_pipeline.spec.decoding import refuse_undecodable
from fine_tune_pipeline.spec.deployment import DeploymentSpec
from fine_tune_pipeline.spec.environment import EnvironmentSpec
from fine_tune_pipeline.spec.evaluation import EvaluationSpec
from fine_tune_pipeline.spec.judge import refuse_own_model
from fine_tune_pipeline.spec.objective import ObjectiveSpec
from fine_tune_pipeline.spec.paths import is_url
from fine_tune_pipeline.spec.pii_detectors import GlinerDetector, PiiDetector, TransformersDetector
from fine_tune_pipeline.spec.technique import Auto, TechniqueSpec
from fine_tune_pipeline.spec.training import TrainingSpec
from fine_tune_pipeline.spec.vllm import refuse_unservable

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$", description="Key prefix and group of all assets: a-z, 0-9 and _.")]
Owner = Annotated[str, Field(pattern=r"^(team:[\w\-]+|[^@\s]+@[^@\s]+)$", description="team:name or an e-mail address.")]


class UseCaseSpec(Section):
    """Everything that a user says about one use case."""

    name: Name
    owners: list[Owner] = []
    objective: ObjectiveSpec
    base_model: BaseModelSpec = BaseModelSpec()
    dataset: DatasetSpec
    technique: TechniqueSpec = Auto()
    environment: EnvironmentSpec = EnvironmentSpec()
    training: TrainingSpec = TrainingSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    deployment: DeploymentSpec = DeploymentSpec()

    _folder: Path = PrivateAttr(default=Path())

    @model_validator(mode="after")
    def judged_by_another(self) -> Self:
        if self.evaluation.judge is not None:
            bases = model_names(self.base_model.candidates)
            refuse_own_model(self.evaluation.judge, use_case=self.name, bases=bases, port=self.deployment.port)
        return self

    @model_validator(mode="after")
    def decodable(self) -> Self:
        refuse_undecodable(self.evaluation.decoding, task=self.objective.task.type)
        return self

    @model_validator(mode="after")
    def servable(self) -> Self:
        refuse_unservable(self)
        return self

    @property
    def folder(self) -> Path:
        """Where relative paths of this use case begin: the folder of its YAML file."""
        return self._folder

    def at(self, folder: Path) -> "UseCaseSpec":
        """The same use case, read from `folder`."""
        copy = self.model_copy()
        copy._folder = folder
        return copy

    def file(self, path: str) -> Path:
        """A path of the use case: `${NAME}` is taken from the environment, relative ones begin at the use case's folder."""
        expanded = Path(os.path.expandvars(path))
        return expanded if expanded.is_absolute() else self.folder / expanded

    @property
    def pii(self) -> PiiSpec:
        """Section `dataset.pii` for where it is used: folders of models are absolute; what is trained beforehand is not in it."""
        pii = self.dataset.pii
        return pii.model_copy(update={"detectors": [self._placed(one) for one in pii.detectors], "adapt": None})

    def _placed(self, detector: PiiDetector) -> PiiDetector:
        if isinstance(detector, TransformersDetector | GlinerDetector) and detector.is_folder:
            return detector.model_copy(update={"model": str(self.file(detector.model))})
        return detector

    def place(self, path: str) -> str:
        """A path of the use case as a place that may also be a URL, which is left as it is."""
        expanded = os.path.expandvars(path)
        return expanded if is_url(expanded) else str(self.file(path))
