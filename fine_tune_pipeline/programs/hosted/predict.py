"""Answers of hosted models, base and tuned: as many prompts at once as allowed, each answer kept as soon as it is there."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import openai
from openai.types.chat import ChatCompletion
from upath import UPath

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.artifacts.replies import Replies
from fine_tune_pipeline.programs.hosted.chat_rows import messages
from fine_tune_pipeline.programs.hosted.provider import connect, told
from fine_tune_pipeline.programs.hosted.requests import HostedModel, HostedPredictRequest, read_hosted
from fine_tune_pipeline.programs.reporting import Reporter, end_on_signals, finish, parse, session
from fine_tune_pipeline.programs.requests import Contract, PredictedJob, Prediction, PredictJob, PredictResult
from fine_tune_pipeline.programs.rows import read_rows, write_rows


class NotTuned(ValueError):
    """A job's adapter is not the folder of a tuned hosted model."""


class Reply(Contract):
    """One answer of the provider; `logprob` is the mean of its tokens, None when the provider does not give it."""

    text: str
    prompt_tokens: int
    tokens: int
    logprob: float | None
    finished: bool


@dataclass(frozen=True)
class _Prompt:
    """A row as it is sent."""

    id: str
    body: dict[str, Any]


def run(request: HostedPredictRequest, reporter: Reporter) -> PredictResult:
    """Answer the prompts of every job, and write its answers in the order of its prompts.

    Raises:
        BadRows: a prompts file is not JSONL of id and prompt, or has an id twice.
        NotTuned: an adapter is none of this provider's.
        NoKey, KeyRefused, QuotaUsedUp, TooBusy, ProviderDown, NotThere, RequestRefused: answers that came before are kept.
    """
    jobs = [(job, list(_prompts(job, _model_of(request, job)))) for job in request.jobs]
    replies = Replies(root=UPath(request.replies))
    with connect(request.hosted) as client:
        done = tuple(_done(job, prompts, client=client, hosted=request.hosted, replies=replies, reporter=reporter) for job, prompts in jobs)
    return PredictResult(jobs=done, load_seconds=0.0, peak_memory_bytes=0)


def ask(client: openai.OpenAI, hosted: HostedModel, body: dict[str, Any]) -> Reply:
    """One answer, greedy and with the probabilities of its tokens where the provider gives them; a refusal is an answer too."""
    with told(hosted, f"asking {body['model']}"):
        came = _completion(client, body)
    choice = came.choices[0]
    tokens = choice.logprobs.content if choice.logprobs is not None else None
    return Reply(
        text=(choice.message.content or choice.message.refusal or "").strip(),
        prompt_tokens=came.usage.prompt_tokens if came.usage else 0,
        tokens=came.usage.completion_tokens if came.usage else 0,
        logprob=sum(token.logprob for token in tokens) / len(tokens) if tokens else None,
        finished=choice.finish_reason != "length",
    )


def _completion(client: openai.OpenAI, body: dict[str, Any]) -> ChatCompletion:
    try:
        return client.chat.completions.create(**body)
    except openai.BadRequestError as error:
        if "logprobs" not in f"{error.param} {error}":
            raise
    # Some providers and models do not give them; the answer is the same without.
    return client.chat.completions.create(**{name: value for name, value in body.items() if name != "logprobs"})


def body_of(hosted: HostedModel, turns: Sequence[dict[str, Any]], *, tools: Sequence[Any] = (), max_new_tokens: int) -> dict[str, Any]:
    """The request for an answer: the most likely one, as our own models give it."""
    settings = {"temperature": 0, "seed": 0, "max_tokens": max_new_tokens, "logprobs": True}
    return {"model": hosted.model, "messages": list(turns), **({"tools": list(tools)} if tools else {}), **settings}


def _model_of(request: HostedPredictRequest, job: PredictJob) -> HostedModel:
    if job.adapter is None:
        return request.hosted
    tuned = read_hosted(job.adapter)
    if tuned is None or tuned.base_url != request.hosted.base_url:
        raise NotTuned(f"{job.adapter}: want the folder of a model that was tuned at {request.hosted.base_url}; materialize adapter again")
    return tuned


def _prompts(job: PredictJob, model: HostedModel) -> Iterator[_Prompt]:
    for row in read_rows(job.prompts, text_fields=("id", "prompt"), unique=("id",)):
        asked = Asked.of(row)
        turns = messages(asked, format=job.format, shots=job.shots)
        yield _Prompt(row["id"], body_of(model, turns, tools=asked.tools, max_new_tokens=job.max_new_tokens))


def _done(
    job: PredictJob, prompts: Sequence[_Prompt], *, client: openai.OpenAI, hosted: HostedModel, replies: Replies, reporter: Reporter
) -> PredictedJob:
    start = time.monotonic()
    what = f"predict {job.name}"
    found = {prompt.id: Reply.model_validate_json(kept) for prompt in prompts if (kept := replies.answer(prompt.body)) is not None}
    reporter.progress(len(found), len(prompts), what)

    def answered(prompt: _Prompt) -> tuple[str, Reply]:
        reply = ask(client, hosted, prompt.body)
        replies.keep(prompt.body, reply.model_dump_json())
        return prompt.id, reply

    with ThreadPoolExecutor(max_workers=hosted.requests_at_once) as pool:
        waiting = [pool.submit(answered, prompt) for prompt in prompts if prompt.id not in found]
        try:
            for future in as_completed(waiting):
                id, reply = future.result()
                found[id] = reply
                reporter.progress(len(found), len(prompts), what)
        finally:
            # After an error or an interrupt nothing more is asked, and paid for.
            pool.shutdown(wait=False, cancel_futures=True)
    write_rows(job.output, [_prediction(prompt.id, found[prompt.id]) for prompt in prompts])
    return PredictedJob(
        name=job.name,
        rows=len(prompts),
        prompt_tokens=sum(reply.prompt_tokens for reply in found.values()),
        new_tokens=sum(reply.tokens for reply in found.values()),
        seconds=time.monotonic() - start,
    )


def _prediction(id: str, reply: Reply) -> Prediction:
    return Prediction(id=id, text=reply.text, tokens=reply.tokens, logprob=reply.logprob, finished=reply.finished)


def main() -> None:
    """The command line."""
    request = parse(HostedPredictRequest)
    end_on_signals()
    with session() as reporter:
        finish(request, run(request, reporter))


if __name__ == "__main__":
    main()
