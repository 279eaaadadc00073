"""How likely several systems hold two given answers, the preferred and the rejected one; for `preference_accuracy`."""

import time
from collections.abc import Sequence

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.programs.decoding import refuse_too_long
from fine_tune_pipeline.programs.likelihood_requests import LikelihoodJob, LikelihoodRequest, LikelihoodResult, Weighed
from fine_tune_pipeline.programs.models import load_model, load_tokenizer
from fine_tune_pipeline.programs.predict import batches
from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.quiet import quiet_libraries
from fine_tune_pipeline.programs.reporting import Reporter, finish, parse, session
from fine_tune_pipeline.programs.rows import read_rows, write_rows
from fine_tune_pipeline.programs.training.batches import IGNORED, Collate, Row, as_records
from fine_tune_pipeline.programs.training.sequence_logps import answers_of


def run(request: LikelihoodRequest, reporter: Reporter) -> LikelihoodResult:
    """Weigh both answers of every row for every job and write what was found, in the order of the rows.

    Raises:
        BadRows: a file is not JSONL of id, prompt, completion and rejected, or has an id twice; like the next, before any model is loaded.
        PromptTooLong: a prompt and an answer do not fit into the model's context.
        AdapterMismatch, NotAnAdapter: an adapter that cannot stand on this base model.
    """
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    start = time.monotonic()
    tokenizer = load_tokenizer(request.model)
    sequences = [_sequences(job, tokenizer=tokenizer) for job in request.jobs]
    found: dict[str, int] = {}
    # Systems with the same adapter share a model, and there is never more than one.
    for adapter in dict.fromkeys(job.adapter for job in request.jobs):
        model = load_model(request.model, dtype=request.dtype, device=request.device, adapter=adapter)
        for job, rows in zip(request.jobs, sequences, strict=True):
            if job.adapter == adapter:
                weighed = _weighed(job, rows, model=model, tokenizer=tokenizer, request=request, reporter=reporter)
                write_rows(job.output, weighed)
                found[job.name] = len(weighed)
        del model
    return LikelihoodResult(rows=found, seconds=time.monotonic() - start)


def _sequences(job: LikelihoodJob, *, tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """Two for each row, the preferred answer first."""
    rows = read_rows(job.rows, text_fields=("id", "prompt", "completion", "rejected"), unique=("id",))
    return [_sequence(job, row, row[answer], tokenizer=tokenizer) for row in rows for answer in ("completion", "rejected")]


def _sequence(job: LikelihoodJob, row: dict[str, object], answer: str, *, tokenizer: PreTrainedTokenizerBase) -> Row:
    encoded = encode(Asked.of(row), answer, tokenizer=tokenizer, format=job.format, shots=job.shots)
    labels = [IGNORED] * len(encoded.prompt_ids) + encoded.completion_ids
    return Row(str(row["id"]), encoded.prompt_ids + encoded.completion_ids, labels, prompt_tokens=len(encoded.prompt_ids))


@torch.inference_mode()
def _weighed(
    job: LikelihoodJob,
    sequences: Sequence[Row],
    *,
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    request: LikelihoodRequest,
    reporter: Reporter,
) -> list[Weighed]:
    """Sequences of about one length go through the model together, the longest first: too large fails at once."""
    for row in sequences:
        refuse_too_long(row.length, max_new_tokens=0, config=model.config, what=f"{job.rows}: prompt and answer of {row.id!r}")
    collate = Collate(pad_id=tokenizer.pad_token_id, flat=False)
    by_length = sorted(range(len(sequences)), key=lambda place: -sequences[place].length)
    logps: dict[int, float] = {}
    for part in batches([sequences[place].length for place in by_length], rows=request.batch_rows, tokens=request.batch_tokens):
        places = by_length[part]
        some = [sequences[place] for place in places]
        batch = {name: value.to(model.device) if torch.is_tensor(value) else value for name, value in collate(as_records(some)).items()}
        logps |= dict(zip(places, answers_of(model, some, batch).logps.tolist(), strict=True))
        reporter.progress(len(logps), len(sequences), f"weigh {job.name}")
    return [
        Weighed(
            id=sequences[place].id,
            preferred_logprob=logps[place],
            rejected_logprob=logps[place + 1],
            preferred_tokens=sequences[place].labelled,
            rejected_tokens=sequences[place + 1].labelled,
        )
        for place in range(0, len(sequences), 2)
    ]


def main() -> None:
    """Weigh as the request file says."""
    quiet_libraries()
    request = parse(LikelihoodRequest)
    with session() as reporter:
        finish(request, run(request, reporter))


if __name__ == "__main__":
    main()
