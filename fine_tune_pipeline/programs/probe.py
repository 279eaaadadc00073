"""What training has done to a model beside its task: loss on general texts, answers that are begun and continued, requests, trained codes.

Base and tuned model are measured alike, on one loaded base. Each measure of each model is a part with a file of its own, so a probe that
was killed repeats at most one.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from peft import PeftModel
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.programs.code_likelihood import log_likelihoods
from fine_tune_pipeline.programs.decoding import generate_batch, refuse_too_long, shared_prefix
from fine_tune_pipeline.programs.models import attach, is_peft_folder, load_model, load_tokenizer, peak_memory_bytes
from fine_tune_pipeline.programs.predict import batches
from fine_tune_pipeline.programs.probe_requests import BothAnswers, CodeRank, ProbeRequest, ProbeResult, TextLoss
from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.quiet import quiet_libraries
from fine_tune_pipeline.programs.reporting import Reporter, finish, parse, session
from fine_tune_pipeline.programs.requests import Contract
from fine_tune_pipeline.programs.rows import BadRows, read_rows, write_rows
from fine_tune_pipeline.programs.training.batches import IGNORED
from fine_tune_pipeline.programs.training.losses import batch_token_nll

BASE, FINE_TUNED = "base", "fine_tuned"

Model: TypeAlias = PreTrainedModel | PeftModel

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class _Measure:
    """One thing that is measured of each model, as rows of id and value."""

    name: str
    of: Callable[[Model], Rows]


class _Systems:
    """The base model, loaded when first needed, then the tuned one on it. After that the base alone is gone."""

    def __init__(self, request: ProbeRequest) -> None:
        self._request = request
        self._base: PreTrainedModel | None = None

    def named(self, system: str) -> Model:
        if system == FINE_TUNED and not is_peft_folder(self._request.adapter):
            self._base = None
            return self._load(self._request.adapter)
        if self._base is None:
            self._base = self._load(self._request.model)
        return self._base if system == BASE else attach(self._base, adapter=self._request.adapter)

    def _load(self, folder: str) -> PreTrainedModel:
        model = load_model(folder, dtype=self._request.dtype, device=self._request.device)
        assert isinstance(model, PreTrainedModel)
        return model


def run(request: ProbeRequest, reporter: Reporter) -> ProbeResult:
    """Measure what is asked, and write one file for each kind of it.

    Raises:
        BadRows: a file is not JSONL of the rows that it should hold, or has an id twice; like the next, before any model is loaded.
        PromptTooLong: a prompt and its answer might not fit into the model's context.
        AdapterMismatch, NotAnAdapter: an adapter that cannot stand on this base model.
    """
    started = time.monotonic()
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    measures = _Asked(request).measures()
    parts = Path(request.output) / f"parts-{_what(request)}"
    parts.mkdir(exist_ok=True)
    missing = {
        system: [measure for measure in measures if not _part(parts, measure.name, system).exists()] for system in (BASE, FINE_TUNED)
    }
    total, systems = 2 * len(measures), _Systems(request)
    resumed = total - sum(map(len, missing.values()))
    done = resumed
    for system, waiting in missing.items():
        model = systems.named(system) if waiting else None
        for measure in waiting:
            assert model is not None
            reporter.progress(done, total, "probe")
            write_rows(_part(parts, measure.name, system), measure.of(model))
            done += 1
    reporter.progress(done, total, "probe")
    files = _joined(request, parts, [measure.name for measure in measures])
    seconds = round(time.monotonic() - started, 3)
    return ProbeResult(**files, parts=total, resumed=resumed, seconds=seconds, peak_memory_bytes=peak_memory_bytes())


class _Asked:
    """The rows of a request as tokens, and what is measured of them."""

    def __init__(self, request: ProbeRequest) -> None:
        self.request = request
        self.tokenizer = load_tokenizer(request.model)
        self.config = AutoConfig.from_pretrained(request.model, local_files_only=True, trust_remote_code=False)

    def measures(self) -> list[_Measure]:
        """In the order of their files, codes one by one."""
        asked = self.request
        found = [self._texts(asked.texts)]
        if asked.openings is not None:
            found.append(self._answers("openings", asked.openings, new_tokens=asked.opening_tokens))
        if asked.requests is not None:
            found.append(self._answers("requests", asked.requests, new_tokens=asked.request_tokens))
        return found + ([] if asked.codes is None else self._codes(asked.codes))

    def _texts(self, path: str) -> _Measure:
        rows = read_rows(path, text_fields=("id", "text"), unique=("id",))
        tokens = [text_tokens(row["text"], self.tokenizer) for row in rows]
        for row, ids in zip(rows, tokens, strict=True):
            refuse_too_long(len(ids), max_new_tokens=0, config=self.config, what=f"{path}: the text of {row['id']!r}")
            if len(ids) < 2:
                raise BadRows(f"{path}: the text of {row['id']!r} has no token with another one before it; want a sentence or two")
        return _Measure("texts", lambda model: text_losses(model, [row["id"] for row in rows], tokens, request=self.request))

    def _answers(self, name: str, path: str, *, new_tokens: int) -> _Measure:
        fields = ("id", "prompt", "opening") if name == "openings" else ("id", "prompt")
        rows = read_rows(path, text_fields=fields, unique=("id",))
        prompts = [_prompt_tokens(row, self.tokenizer, self.request) for row in rows]
        for row, ids in zip(rows, prompts, strict=True):
            refuse_too_long(len(ids), max_new_tokens=new_tokens, config=self.config, what=f"{path}: the prompt of {row['id']!r}")

        def of(model: Model) -> Rows:
            texts = _generated(model, self.tokenizer, prompts, new_tokens=new_tokens, request=self.request)
            return [{"id": row["id"], "value": text} for row, text in zip(rows, texts, strict=True)]

        return _Measure(name, of)

    def _codes(self, path: str) -> list[_Measure]:
        rows = read_rows(path, text_fields=("id", "prompt"), unique=("id",))
        return [self._code(number, row, path) for number, row in enumerate(rows)]

    def _code(self, number: int, row: Mapping[str, Any], path: str) -> _Measure:
        codes = row.get("codes")
        if not isinstance(codes, list) or len(codes) < 2 or len(set(codes)) < len(codes):
            raise BadRows(f"{path}: {row['id']!r}: want codes as a list of at least two different texts, the trained one first")
        encoded = [encode(Asked.of(row), code, tokenizer=self.tokenizer, format=self.request.format) for code in codes]
        # Without the end token, which follows every code alike.
        answers = [one.completion_ids[:-1] for one in encoded]
        longest = max(map(len, answers))
        refuse_too_long(len(encoded[0].prompt_ids), max_new_tokens=longest, config=self.config, what=f"{path}: {row['id']!r}")
        prompt, rows = encoded[0].prompt_ids, 4 * self.request.batch_rows
        return _Measure(f"codes-{number}", lambda model: [{"id": row["id"], "value": log_likelihoods(model, prompt, answers, rows=rows)}])


def text_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """A text as it is, after the begin token if there is one."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return [tokenizer.bos_token_id, *ids] if isinstance(tokenizer.bos_token_id, int) else ids


def scored_places(tokens: int, *, most: int) -> list[int]:
    """At most so many places of a text's tokens, evenly spread, never the first, which nothing predicts."""
    count = tokens - 1
    if count <= most:
        return list(range(1, tokens))
    return [1 + (2 * number + 1) * count // (2 * most) for number in range(most)]


@torch.no_grad()
def text_losses(model: Model, ids: Sequence[str], tokens: Sequence[Sequence[int]], *, request: ProbeRequest) -> Rows:
    """Mean loss of each text at its scored places, in nats per token, in the order of `ids`."""
    found: dict[int, dict[str, Any]] = {}
    order = sorted(range(len(tokens)), key=lambda index: -len(tokens[index]))
    for part in batches([len(tokens[index]) for index in order], rows=request.batch_rows, tokens=request.batch_tokens):
        batch = order[part]
        width, places = len(tokens[batch[0]]), [scored_places(len(tokens[index]), most=request.scored_tokens) for index in batch]
        padded = torch.tensor([[*tokens[index], *[0] * (width - len(tokens[index]))] for index in batch], device=model.device)
        lengths = torch.tensor([len(tokens[index]) for index in batch], device=model.device)
        labels = torch.full_like(padded, IGNORED)
        for row, scored in enumerate(places):
            labels[row, scored] = padded[row, scored]
        mask = (torch.arange(width, device=model.device) < lengths[:, None]).long()
        nll = batch_token_nll(model, {"input_ids": padded, "attention_mask": mask, "labels": labels})
        for index, scored, own in zip(batch, places, nll.cpu().split([len(scored) for scored in places]), strict=True):
            found[index] = {"id": ids[index], "tokens": len(scored), "value": own.double().mean().item()}
    return [found[index] for index in range(len(tokens))]


def _prompt_tokens(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, request: ProbeRequest) -> list[int]:
    """The prompt, and the answer as far as it is begun, without an end."""
    encoded = encode(Asked.of(row), row.get("opening"), tokenizer=tokenizer, format=request.format)
    return [*encoded.prompt_ids, *encoded.completion_ids[:-1]]


def _generated(
    model: Model, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[list[int]], *, new_tokens: int, request: ProbeRequest
) -> list[str]:
    prefix = shared_prefix(model, prompts)
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    texts: dict[int, str] = {}
    widths = [len(prompts[index]) + new_tokens for index in order]
    for part in batches(widths, rows=request.batch_rows, tokens=request.batch_tokens):
        asked = [prompts[index] for index in order[part]]
        written = generate_batch(model, tokenizer, asked, format=request.format, max_new_tokens=new_tokens, prefix=prefix)
        texts.update(zip(order[part], (answer.text for answer in written), strict=True))
    return [texts[index] for index in range(len(prompts))]


def _what(request: ProbeRequest) -> str:
    """Of all that decides the parts, where files lie and how many threads there are left out."""
    asked = request.model_dump(mode="json", exclude={"output", "model", "adapter", "threads", "device", "batch_rows", "batch_tokens"})
    for name in ("texts", "openings", "requests", "codes"):
        asked[name] = None if asked[name] is None else hashlib.sha256(_bytes(asked[name])).hexdigest()
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def _bytes(path: str) -> bytes:
    return Path(path).read_bytes()


def _part(parts: Path, measure: str, system: str) -> Path:
    return parts / f"{measure}.{system}.jsonl"


def _joined(request: ProbeRequest, parts: Path, measures: Sequence[str]) -> dict[str, str]:
    """The files of the result, by kind."""
    rows: dict[str, list[Contract]] = {}
    for measure in measures:
        both = [read_rows(_part(parts, measure, system), text_fields=("id",)) for system in (BASE, FINE_TUNED)]
        kind = measure.split("-")[0]
        rows.setdefault(kind, []).extend(_pair(kind, base, tuned) for base, tuned in zip(*both, strict=True))
    files = {kind: Path(request.output) / f"{kind}.jsonl" for kind in rows}
    for kind, path in files.items():
        write_rows(path, rows[kind])
    return {kind: str(path) for kind, path in files.items()}


def _pair(kind: str, base: Mapping[str, Any], tuned: Mapping[str, Any]) -> Contract:
    if kind == "texts":
        return TextLoss(id=base["id"], tokens=base["tokens"], base=base["value"], fine_tuned=tuned["value"])
    if kind == "codes":
        gains = [after - before for before, after in zip(base["value"], tuned["value"], strict=True)]
        return CodeRank(id=base["id"], rank=sum(gain >= gains[0] for gain in gains), candidates=len(gains), gain=gains[0])
    return BothAnswers(id=base["id"], base=base["value"], fine_tuned=tuned["value"])


def main() -> None:
    """Measure as the request file says."""
    quiet_libraries()
    request = parse(ProbeRequest)
    with session() as reporter:
        finish(request, run(request, reporter))


if __name__ == "__main__":
    main()
