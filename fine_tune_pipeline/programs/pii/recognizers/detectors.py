"""Further detectors of a use case, each as a Presidio recogniser. Their packages are imported when one is asked for."""

import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any

from presidio_analyzer import EntityRecognizer

from fine_tune_pipeline.programs.pii.recognizers.llm import LlmRecognizer
from fine_tune_pipeline.spec.dataset import PiiSpec
from fine_tune_pipeline.spec.pii_detectors import GlinerDetector, LlmDetector, PythonDetector, TransformersDetector


class MissingDetector(RuntimeError):
    """The package, weights, class or key of a detector is not there."""


def recognizers(pii: PiiSpec) -> list[EntityRecognizer]:
    """The further detectors of a use case, in its order.

    Raises:
        MissingDetector: says which, and what to install or set.
    """
    return [_made(one, f"dataset.pii.detectors[{number}]") for number, one in enumerate(pii.detectors)]


def explicit_entities(pii: PiiSpec) -> set[str]:
    """Entities that a further detector is asked for by name, whether or not they are among `entities`; deny lists name theirs too."""
    found = set(pii.deny)
    for number, one in enumerate(pii.detectors):
        if isinstance(one, LlmDetector):
            found.update(one.ask_for)
        elif isinstance(one, PythonDetector):
            found.update(_python(one, f"dataset.pii.detectors[{number}]").supported_entities)
        else:
            found.update(one.labels.values())
    return found


def _made(one: Any, where: str) -> EntityRecognizer:
    makers: dict[type, Callable[[Any, str], EntityRecognizer]] = {
        TransformersDetector: _transformers,
        GlinerDetector: _gliner,
        LlmDetector: _llm,
        PythonDetector: _python,
    }
    return makers[type(one)](one, where)


def _transformers(one: TransformersDetector, where: str) -> EntityRecognizer:
    from fine_tune_pipeline.programs.pii.recognizers.token_classifier import TokenClassifier

    name, revision = _weights(one, where)
    try:
        return TokenClassifier(name, revision=revision, labels=one.labels)
    except OSError as error:
        raise MissingDetector(f"{where}.model: {one.model} cannot be loaded: {error}") from error


def _gliner(one: GlinerDetector, where: str) -> EntityRecognizer:
    name, revision = _weights(one, where)
    if importlib.util.find_spec("gliner") is None:
        raise MissingDetector(f"{where}: the package gliner is not installed; pip install gliner")
    from presidio_analyzer.predefined_recognizers import GLiNERRecognizer

    pinned = {} if revision is None else {"revision": revision}
    return GLiNERRecognizer(model_name=name, entity_mapping=dict(one.labels), **pinned)


def _llm(one: LlmDetector, where: str) -> EntityRecognizer:
    key = os.environ.get(one.key_variable or "")
    if one.key_variable and not key:
        raise MissingDetector(f"{where}.key_variable: {one.key_variable} is not set; export it with the key of {one.url}")
    return LlmRecognizer(one, key=key)


def _python(one: PythonDetector, where: str) -> EntityRecognizer:
    module, _, name = one.recognizer.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise MissingDetector(f"{where}.recognizer: {one.recognizer} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, EntityRecognizer)):
        raise MissingDetector(f"{where}.recognizer: {one.recognizer} is {found!r}, want a class of presidio_analyzer.EntityRecognizer")
    return found(**one.options)


def _weights(one: TransformersDetector | GlinerDetector, where: str) -> tuple[str, str | None]:
    """Folder, or name on the Hub and commit."""
    if not one.is_folder:
        name, _, revision = one.model.partition("@")
        return name, revision
    if not os.path.isdir(one.model):
        raise MissingDetector(f"{where}.model: there is no folder {one.model}")
    return one.model, None
