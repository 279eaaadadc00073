"""What `dataset.more` of a use case needs from outside: the store for answers and evaluations, the detector of personal data."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.replies import Replies
from fine_tune_pipeline.artifacts.store import Store
from fine_tune_pipeline.guide.dataset.more.chat_model import Chat
from fine_tune_pipeline.guide.dataset.more.hard import Slice, found_by
from fine_tune_pipeline.guide.dataset.more.label_rules import code_sha256
from fine_tune_pipeline.guide.dataset.more.more import Means
from fine_tune_pipeline.guide.dataset.scrubbing.scrub import scrub
from fine_tune_pipeline.guide.objective.task import Task, read_task
from fine_tune_pipeline.programs.pii.stand_ins import StandIns
from fine_tune_pipeline.spec.more import ChatModel, MoreSpec
from fine_tune_pipeline.spec.use_case import UseCaseSpec

_PLACE = {"url", "key_variable", "timeout_seconds", "tries", "parallel"}
"""Fields of a model that say where and how patiently it is asked, not what."""


@dataclass(frozen=True)
class Making:
    """A use case that makes rows. `ner`: folder of its adapted NER, if it has one."""

    spec: UseCaseSpec
    store: Store
    stand_ins: StandIns
    ner: Path | None = None

    def what(self) -> dict[str, Any]:
        """What decides the rows: the section without places, the code of rules, how personal data is replaced, the seed."""
        more, task, dataset = self._more, self._task, self.spec.dataset
        return {
            "dataset.more": _without_place(more.model_dump(mode="json")),
            "labelling_code": code_sha256(more.labelling, self.spec.folder) if more.labelling else {},
            "objective.task": {"type": task.type, "labels": task.labels, "schema": task.schema},
            "dataset.pii": dataset.pii,
            "pii_key": self.stand_ins.key_id,
            "dataset.split.seed": dataset.split.seed,
        }

    def means(self) -> Means:
        """Everything that `with_more` asks for.

        Raises:
            UnknownEvaluation: `hard` names one that is not in the store.
        """
        return Means(
            spec=self._more, task=self._task, seed=self.spec.dataset.split.seed, folder=self.spec.folder,
            scrub=self._scrub, chat=self._chat, hard=self._hard(),
        )  # fmt: skip

    @property
    def _more(self) -> MoreSpec:
        assert self.spec.dataset.more is not None
        return self.spec.dataset.more

    @cached_property
    def _task(self) -> Task:
        return read_task(self.spec)

    def _hard(self) -> Sequence[Slice]:
        hard = self._more.hard
        return [] if hard is None else found_by(self.store, self.spec.name, hard, task=self._task)

    def _scrub(self, rows: Sequence[Example]) -> list[Example]:
        """The rows as `scrubbed_examples` will write them."""
        from fine_tune_pipeline.programs.pii.scrubbing import detector

        pii = self.spec.dataset.pii
        detect = detector(pii, ner=self.ner)
        return scrub(rows, detect=detect, task=self._task, stand_in=self.stand_ins, remove=pii.operator == "remove").examples

    def _chat(self, model: ChatModel) -> Chat:
        return Chat(model, Replies(self.store.root / self.spec.name / "replies"))


def _without_place(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_place(item) for name, item in value.items() if not ("url" in value and name in _PLACE)}
    return [_without_place(item) for item in value] if isinstance(value, list) else value
