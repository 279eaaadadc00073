"""A tiny model to which tokens were added, and rows that use them."""

from pathlib import Path

from fine_tune_pipeline.programs import extend
from fine_tune_pipeline.programs.extend_requests import ExtendRequest, ExtendResult
from fine_tune_pipeline_tests.small_training import ROWS, Recorder
from fine_tune_pipeline_tests.tiny import Architecture, tiny_model

TOKENS = ("<intent>", "<end of intent>")

TAGGED = tuple((id, prompt, f"<intent>{answer}<end of intent>") for id, prompt, answer in ROWS)


def extended(folder: Path, *, architecture: Architecture = "llama", tied: bool = True) -> ExtendResult:
    """`folder/base` is the model as it was, `folder/model` the extended one."""
    folder.mkdir(exist_ok=True)
    return extend_model(folder, tiny_model(folder / "base", architecture=architecture, tied=tied))


def extend_model(output: Path, model: Path, tokens: tuple[str, ...] = TOKENS) -> ExtendResult:
    """By the program."""
    output.mkdir(exist_ok=True)
    return extend.run(ExtendRequest(output=str(output), model=str(model), tokens=tokens), Recorder())
