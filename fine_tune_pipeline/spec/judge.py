"""Part of section `evaluation`: a model that judges pairs beside people."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from pydantic import Field

from fine_tune_pipeline.spec.more import ChatModel

_THIS_MACHINE = ("localhost", "127.0.0.1", "0.0.0.0", "::1")


class JudgeSpec(ChatModel):
    """A model behind an OpenAI-compatible API that judges pairs in both orders. It is sent scrubbed prompts and the two answers."""

    temperature: float = Field(default=0.0, ge=0, le=2)
    items: int = Field(default=200, ge=2, description="Test rows that it judges, those that people judged first.")
    required: bool = Field(
        default=False, description="Deployment waits for its verdict as soon as enough people calibrate it; before that it decides nothing."
    )


class JudgedByItself(ValueError):
    """The judge is a model that it would judge: models prefer their own answers."""


def refuse_own_model(judge: JudgeSpec, *, use_case: str, bases: Iterable[str], port: int) -> None:
    """A judge must be neither the base, nor tuned from it, nor answer behind the endpoint of the use case.

    Args:
        bases: names of models that are or may become the base: ids, repositories, names at a provider.
        port: of the endpoint on this machine; 0 if it is not known.

    Raises:
        JudgedByItself: says which name gave it away.
    """
    # A provider's copy of a model: ft:model:organisation:name:id.
    asked = judge.model.removeprefix("ft:").split(":")[0] if judge.model.startswith("ft:") else judge.model
    same = next((name for name in bases if _plain(name) == _plain(asked)), None)
    if same is not None:
        raise JudgedByItself(f"evaluation.judge.model: got {judge.model!r}, but {same!r} is what is fine-tuned; want another model")
    if judge.model == use_case or judge.model.startswith((f"{use_case}-v", f"{use_case}-base")):
        raise JudgedByItself(f"evaluation.judge.model: got {judge.model!r}, a name of this use case's endpoint; want another model")
    place = urlsplit(judge.url)
    if port and place.port == port and place.hostname in _THIS_MACHINE:
        raise JudgedByItself(
            f"evaluation.judge.url: got {judge.url!r}, the endpoint of this use case (deployment.port); want another model"
        )


def _plain(name: str) -> str:
    """The name of a model without who published it, and however it is written."""
    return name.rstrip("/").rsplit("/", 1)[-1].casefold()
