"""Answers of several systems (base, few-shot, fine-tuned) that share one base model, loaded once."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.programs.answering import Answering, answering
from fine_tune_pipeline.programs.decoding import Generated, refuse_too_long, shared_prefix
from fine_tune_pipeline.programs.kept_answers import KeptAnswers, job_mark
from fine_tune_pipeline.programs.latency import single_seconds
from fine_tune_pipeline.programs.models import attach, is_peft_folder, load_model, load_tokenizer, peak_memory_bytes
from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.quiet import quiet_libraries
from fine_tune_pipeline.programs.reporting import Reporter, finish, parse, session
from fine_tune_pipeline.programs.requests import PredictedJob, Prediction, PredictJob, PredictRequest, PredictResult
from fine_tune_pipeline.programs.rows import read_rows, write_rows


@dataclass(frozen=True)
class _Prompts:
    """The prompts of one job: ids of the rows, and token ids of their prompts, in the order of the file; and how answers are written."""

    ids: list[str]
    tokens: list[list[int]]
    way: Answering


class _Models:
    """The base model, loaded when first needed, and what the jobs put on it."""

    def __init__(self, request: PredictRequest) -> None:
        self._request = request
        self._base: PreTrainedModel | None = None
        self.load_seconds = 0.0

    @contextmanager
    def answering(self, adapter: str | None) -> Iterator[PreTrainedModel | PeftModel]:
        """The base model, the base model with an adapter, or the whole model that a full fine-tuning left."""
        start = time.monotonic()
        if adapter is not None and not is_peft_folder(adapter):
            whole = self._load(adapter)
            self.load_seconds += time.monotonic() - start
            yield whole
            return
        if self._base is None:
            self._base = self._load(self._request.model)
        tuned = None if adapter is None else attach(self._base, adapter=adapter)
        self.load_seconds += time.monotonic() - start
        try:
            yield tuned or self._base
        finally:
            if tuned is not None:
                tuned.unload()

    def _load(self, folder: str) -> PreTrainedModel:
        model = load_model(folder, dtype=self._request.dtype, device=self._request.device)
        assert isinstance(model, PreTrainedModel)
        return model


def run(request: PredictRequest, reporter: Reporter) -> PredictResult:
    """Answer the prompts of every job and write its answers, in the order of its prompts.

    Raises:
        BadRows: a prompts file is not JSONL of id and prompt, or has an id twice; like the next ones, before any model is loaded.
        PromptTooLong: a prompt and its answer might not fit into the model's context.
        SameAnswers, GuideMissing, UnsupportedSchema, UnsupportedTokenizer: answers cannot be kept to what a job wants.
        AdapterMismatch, NotAnAdapter: an adapter that cannot stand on this base model.
    """
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    tokenizer = load_tokenizer(request.model)
    config = AutoConfig.from_pretrained(request.model, local_files_only=True, trust_remote_code=False)
    prompts = [_read(job, tokenizer=tokenizer, config=config) for job in request.jobs]
    models = _Models(request)
    done: list[PredictedJob] = []
    for job, rows in zip(request.jobs, prompts, strict=True):
        kept = _kept(request, job, rows)
        latencies: tuple[float, ...] = ()
        if len(kept.answers) < len(rows.ids) or job.timed_rows:
            with models.answering(job.adapter) as model:
                _answer(job, rows, kept, model=model, request=request, reporter=reporter)
                latencies = _single(job, rows, model=model)
        done.append(_write(job, rows, kept, latencies=latencies))
    return PredictResult(jobs=tuple(done), load_seconds=models.load_seconds, peak_memory_bytes=peak_memory_bytes())


def _read(job: PredictJob, *, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> _Prompts:
    rows = read_rows(job.prompts, text_fields=("id", "prompt"), unique=("id",))
    way = answering(job.decoding, tokenizer=tokenizer, config=config, format=job.format, stop=job.stop)
    tokens = [encode(Asked.of(row), None, tokenizer=tokenizer, format=job.format, shots=job.shots).prompt_ids for row in rows]
    for row, ids in zip(rows, tokens, strict=True):
        where = f"{job.prompts}: the prompt of {row['id']!r}"
        refuse_too_long(len(ids), max_new_tokens=way.longest(job.max_new_tokens), config=config, what=where)
    return _Prompts(ids=[row["id"] for row in rows], tokens=tokens, way=way)


def _kept(request: PredictRequest, job: PredictJob, prompts: _Prompts) -> KeptAnswers:
    """What an earlier try has answered already."""
    if request.parts is None:
        return KeptAnswers(None, name=job.name, mark="")
    mark = job_mark(request, job, rows=dict(zip(prompts.ids, prompts.tokens, strict=True)))
    return KeptAnswers(request.parts, name=job.name, mark=mark)


def _answer(
    job: PredictJob,
    prompts: _Prompts,
    kept: KeptAnswers,
    *,
    model: PreTrainedModel | PeftModel,
    request: PredictRequest,
    reporter: Reporter,
) -> None:
    """Answer what is not answered yet. A batch holds prompts of about one length; the longest come first: too large fails at once."""
    what, total = f"predict {job.name}", len(prompts.ids)
    reporter.progress(len(kept.answers), total, what)
    start = time.monotonic()
    waiting = [index for index, id in enumerate(prompts.ids) if id not in kept.answers]
    prefix = shared_prefix(model, [prompts.tokens[index] for index in waiting])
    by_length = sorted(waiting, key=lambda index: len(prompts.tokens[index]), reverse=True)
    widths = [prompts.way.width(len(prompts.tokens[index]), job.max_new_tokens) for index in by_length]
    for part in batches(widths, rows=request.batch_rows, tokens=request.batch_tokens):
        tokens = [prompts.tokens[index] for index in by_length[part]]
        written = prompts.way.answers(model, tokens, max_new_tokens=job.max_new_tokens, prefix=prefix)
        answers = [_prediction(prompts.ids[index], answer) for index, answer in zip(by_length[part], written, strict=True)]
        now = time.monotonic()
        kept.add(answers, seconds=now - start)
        start = now
        reporter.progress(len(kept.answers), total, what, new_tokens_per_second=_new_tokens(kept) / kept.seconds)


def _single(job: PredictJob, prompts: _Prompts, *, model: PreTrainedModel | PeftModel) -> tuple[float, ...]:
    """Seconds of single answers, as many as the job asks for."""

    def answer(prompt: list[int]) -> list[Generated]:
        return prompts.way.answers(model, [prompt], max_new_tokens=job.max_new_tokens)

    return single_seconds(prompts.tokens, count=job.timed_rows, answer=answer)


def batches(widths: Sequence[int], *, rows: int, tokens: int) -> Iterator[slice]:
    """Parts of at most `rows` rows and, padded to their widest, `tokens` tokens; a row that alone has more is a part of its own.

    Args:
        widths: tokens of each row with its answer, falling.
    """
    first = 0
    while first < len(widths):
        count = max(1, min(rows, tokens // widths[first]))
        yield slice(first, first + count)
        first += count


def _prediction(id: str, answer: Generated) -> Prediction:
    return Prediction(
        id=id,
        text=answer.text,
        tokens=answer.tokens,
        logprob=answer.logprob,
        finished=answer.finished,
        label_logprobs=answer.label_logprobs,
    )


def _write(job: PredictJob, prompts: _Prompts, kept: KeptAnswers, *, latencies: tuple[float, ...]) -> PredictedJob:
    write_rows(job.output, [kept.answers[id] for id in prompts.ids])
    return PredictedJob(
        name=job.name,
        rows=len(prompts.ids),
        prompt_tokens=sum(len(tokens) for tokens in prompts.tokens),
        new_tokens=_new_tokens(kept),
        seconds=kept.seconds,
        latencies=latencies,
    )


def _new_tokens(kept: KeptAnswers) -> int:
    return sum(answer.tokens for answer in kept.answers.values())


def main() -> None:
    """Answer as the request file says."""
    quiet_libraries()
    request = parse(PredictRequest)
    with session() as reporter:
        finish(request, run(request, reporter))


if __name__ == "__main__":
    main()
