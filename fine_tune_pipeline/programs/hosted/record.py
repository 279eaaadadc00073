"""The answers of a hosted model to prompts of a file, as rows that a use case can learn from: before its provider shuts it down."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from fine_tune_pipeline.programs.hosted.predict import run
from fine_tune_pipeline.programs.hosted.requests import HostedModel, HostedPredictRequest
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.requests import PredictJob, PromptFormat
from fine_tune_pipeline.programs.rows import read_rows, write_rows


@dataclass(frozen=True)
class Recorded:
    """How many prompts were answered; `cut` answers ended at the token limit and are left out, since half an answer teaches halves."""

    rows: int
    cut: int
    prompt_tokens: int
    new_tokens: int


def record(source: Path, target: Path, *, hosted: HostedModel, instruction: str = "", max_new_tokens: int, reporter: Reporter) -> Recorded:
    """Write a row of id, prompt and completion for every prompt of `source` (JSONL of prompt, perhaps id and history).

    Every answer is kept in `<target>.replies` as it comes: a run that broke off goes on where it was, and pays for nothing twice.

    Args:
        instruction: the system message that the model is used with; empty for none.
        max_new_tokens: of one answer.

    Raises:
        BadRows: `source` is not JSONL of prompts.
        ProviderError: what the provider did not do; answers that came before are kept.
    """
    rows = [{"id": str(number), **row} for number, row in enumerate(read_rows(source, text_fields=("prompt",)), start=1)]
    with tempfile.TemporaryDirectory(prefix="fine_tune_pipeline-") as scratch:
        prompts, answers = Path(scratch) / "prompts.jsonl", Path(scratch) / "answers.jsonl"
        write_rows(prompts, rows)
        job = PredictJob(
            name=hosted.model,
            prompts=str(prompts),
            output=str(answers),
            format=PromptFormat(style="chat", instruction=instruction),
            max_new_tokens=max_new_tokens,
        )
        [done] = run(HostedPredictRequest(output=scratch, hosted=hosted, jobs=(job,), replies=f"{target}.replies"), reporter).jobs
        said = read_rows(answers, text_fields=("id", "text"))
    whole = [{**row, "completion": answer["text"]} for row, answer in zip(rows, said, strict=True) if answer["finished"]]
    write_rows(target, whole)
    return Recorded(rows=len(whole), cut=len(rows) - len(whole), prompt_tokens=done.prompt_tokens, new_tokens=done.new_tokens)
