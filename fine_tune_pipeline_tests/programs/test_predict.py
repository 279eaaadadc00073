import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import Gemma3ForCausalLM, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from fine_tune_pipeline.programs.decoding import Generated, PromptTooLong, generate_batch, shared_prefix
from fine_tune_pipeline.programs.models import load_model, load_tokenizer
from fine_tune_pipeline.programs.predict import batches, run
from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.requests import Prediction, PredictJob, PredictRequest, PredictResult, PromptFormat, Shot
from fine_tune_pipeline.programs.rows import BadRows
from fine_tune_pipeline_tests.programs.launching import launch
from fine_tune_pipeline_tests.tiny import SLIDING_WINDOW, Architecture, random_adapter, tiny_model

PLAIN = PromptFormat(instruction="Name the intent of the customer's message in one word.")
WORDS = ["card", "bank", "money", "transfer", "lost", "charged", "twice", "abroad", "fee", "pending", "limit"]
NEW_TOKENS = 24


def restless_model(folder: Path, *, architecture: Architecture) -> Path:
    """A tiny model whose answers depend on every token: an untrained one repeats its last token, whatever stands before."""
    tiny_model(folder, architecture=architecture)
    stored = folder / "model.safetensors"
    weights = load_file(stored)
    for name, tensor in weights.items():
        if architecture == "gemma3" and "post_" in name:
            weights[name] = tensor + 3
        if architecture == "llama" and ("o_proj" in name or "down_proj" in name):
            weights[name] = tensor * 40
    save_file(weights, stored, metadata={"format": "pt"})
    return folder


def messages(count: int, *, seed: int = 0) -> list[str]:
    """Of 1 to 30 words."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(1, 30))) for _ in range(count)]


def shots(count: int) -> tuple[Shot, ...]:
    return tuple(Shot(prompt=message, completion=message.split()[0]) for message in messages(count, seed=99))


@pytest.fixture(scope="module", params=["gemma3", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return restless_model(tmp_path_factory.mktemp("base"), architecture=request.param)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return restless_model(tmp_path_factory.mktemp("gemma"), architecture="gemma3")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(folder)


@pytest.fixture(scope="module", params=["base", "adapter"])
def model(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel | PeftModel:
    if request.param == "base":
        return load_model(folder)
    return load_model(folder, adapter=random_adapter(tmp_path_factory.mktemp("adapter"), base=folder))


def encoded(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, worked: int = 0) -> list[list[int]]:
    return [encode(text, None, tokenizer=tokenizer, format=PLAIN, shots=shots(worked)).prompt_ids for text in texts]


def one_at_a_time(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]) -> list[Generated]:
    return [generate_batch(model, tokenizer, [prompt], format=PLAIN, max_new_tokens=NEW_TOKENS)[0] for prompt in prompts]


def assert_same(answers: list[Generated], expected: list[Generated]) -> None:
    assert [(answer.text, answer.tokens, answer.finished) for answer in answers] == [
        (answer.text, answer.tokens, answer.finished) for answer in expected
    ]
    assert [answer.logprob for answer in answers] == pytest.approx([answer.logprob for answer in expected], abs=1e-3)


def test_answers_equal_those_of_transformers_generate(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase):
    prompts = encoded(messages(6), tokenizer)
    answers = generate_batch(model, tokenizer, prompts, format=PLAIN, max_new_tokens=NEW_TOKENS)
    assert len({answer.text for answer in answers}) > 3, "the model must not be one that says the same to all"
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([prompt])
        written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False)
        new = written[0, len(prompt) :].tolist()
        assert answer.text == tokenizer.decode(new, skip_special_tokens=True).partition("\nInput:")[0].strip()
        assert answer.tokens == len(new)


def test_an_answer_does_not_depend_on_its_neighbours_in_the_batch(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase):
    prompts = encoded(messages(12), tokenizer)
    assert max(map(len, prompts)) > 2 * SLIDING_WINDOW + min(map(len, prompts))
    batch = generate_batch(model, tokenizer, prompts, format=PLAIN, max_new_tokens=NEW_TOKENS)
    assert_same(batch, one_at_a_time(model, tokenizer, prompts))


class ContraryLlama(LlamaForCausalLM):
    """An architecture that does something to its logits which no field of its configuration tells."""

    def forward(self, *args: Any, **options: Any) -> Any:
        output = super().forward(*args, **options)
        output.logits = -output.logits
        return output


def test_an_architecture_with_logits_of_its_own_is_answered_by_them(tmp_path: Path):
    folder = restless_model(tmp_path, architecture="llama")
    model, tokenizer = ContraryLlama.from_pretrained(folder).eval(), load_tokenizer(folder)
    for prompt in encoded(messages(3), tokenizer):
        answer = generate_batch(model, tokenizer, [prompt], format=PLAIN, max_new_tokens=1)[0]
        with torch.inference_mode():
            logprob, token = model(input_ids=torch.tensor([prompt])).logits[0, -1].log_softmax(dim=-1).max(dim=-1)
        assert answer.text == tokenizer.decode([token.item()], skip_special_tokens=True).strip()
        assert answer.logprob == pytest.approx(logprob.item(), abs=1e-4)


def test_rows_that_end_early_leave_the_answers_of_the_others_as_they_are(gemma: Path):
    model, tokenizer = load_model(gemma), load_tokenizer(gemma)
    # Many end tokens, so that even an untrained model ends, here and there.
    model.generation_config.eos_token_id = [1, *range(3, len(tokenizer), 11)]
    prompts = encoded(messages(16, seed=5), tokenizer)
    alone = one_at_a_time(model, tokenizer, prompts)
    assert len({answer.tokens for answer in alone}) > 3
    assert_same(generate_batch(model, tokenizer, prompts, format=PLAIN, max_new_tokens=NEW_TOKENS), alone)


def test_sharing_the_prefix_of_few_shot_prompts_changes_no_answer(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase):
    prompts = encoded(messages(10), tokenizer, worked=4)
    prefix = shared_prefix(model, prompts)
    assert prefix is not None
    assert len(prefix.ids) > 3 * SLIDING_WINDOW
    shared = generate_batch(model, tokenizer, prompts, format=PLAIN, max_new_tokens=NEW_TOKENS, prefix=prefix)
    assert_same(shared, one_at_a_time(model, tokenizer, prompts))


def test_sharing_a_prefix_shorter_than_the_padding_changes_no_answer(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase
):
    prompts = encoded(["card", " ".join(WORDS * 5), "lost money"], tokenizer)
    prefix = shared_prefix(model, prompts)
    assert prefix is not None
    assert len(prefix.ids) < max(map(len, prompts)) - min(map(len, prompts))
    shared = generate_batch(model, tokenizer, prompts, format=PLAIN, max_new_tokens=NEW_TOKENS, prefix=prefix)
    assert_same(shared, one_at_a_time(model, tokenizer, prompts))


def test_the_shared_prefix_is_what_all_prompts_begin_with_and_leaves_each_a_token(model: PreTrainedModel | PeftModel):
    common = list(range(10, 40))
    prefix = shared_prefix(model, [[*common, 50, 51], [*common, 60], [*common, 50, 52]])
    assert prefix is not None
    assert prefix.ids == common
    whole = shared_prefix(model, [common, [*common, 60]])
    assert whole is not None
    assert whole.ids == common[:-1]


@pytest.mark.parametrize("prompts", [[list(range(10, 40))], [[5, 6, 7], [5, 6, 8]], []], ids=["one prompt", "short", "none"])
def test_nothing_is_shared_where_it_does_not_pay(prompts: list[list[int]], gemma: Path):
    assert shared_prefix(load_model(gemma), prompts) is None


def test_logprob_is_the_mean_over_the_answers_tokens(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase):
    for prompt in encoded(messages(3), tokenizer):
        answer = generate_batch(model, tokenizer, [prompt], format=PLAIN, max_new_tokens=8)[0]
        ids = torch.tensor([prompt])
        written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
        with torch.inference_mode():
            logprobs = model(input_ids=written).logits.double().log_softmax(dim=-1)[0]
        of_answer = [logprobs[position - 1, written[0, position]].item() for position in range(len(prompt), written.shape[1])]
        assert answer.logprob == pytest.approx(sum(of_answer) / len(of_answer), abs=1e-4)


class Scripted(Gemma3ForCausalLM):
    """A model that says what it is told, whatever it is asked; keeps count of the rows that are still open."""

    answers: Sequence[list[int]]
    batches: list[int]

    def get_output_embeddings(self) -> torch.nn.Module:
        """Nothing that could be read instead of asking this model."""
        return torch.nn.Identity()

    def forward(self, *args: Any, **options: Any) -> Any:
        output = super().forward(*args, **options)
        step = len(self.batches)
        rows = [answer for answer in self.answers if len(answer) > step]
        self.batches.append(len(options["input_ids"]))
        output.logits.zero_()
        for row, answer in enumerate(rows):
            output.logits[row, -1, answer[step]] = 1
        return output


def scripted(folder: Path, answers: Sequence[list[int]]) -> Scripted:
    model = Scripted.from_pretrained(folder).eval()
    model.answers, model.batches = answers, []
    return model


def test_each_row_ends_by_its_own_end_token_stop_string_or_limit_and_then_costs_nothing(gemma: Path):
    tokenizer = load_tokenizer(gemma)
    plain = {
        text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in (" fees", " lost\nInput:", " a b c d e f g h i j k l m n")
    }
    said = [[*plain[" fees"], 1], plain[" lost\nInput:"], plain[" a b c d e f g h i j k l m n"][:10]]
    assert len({len(answer) for answer in said}) == 3
    model = scripted(gemma, said)
    answers = generate_batch(model, tokenizer, [[2, 5], [2, 5, 6], [2]], format=PLAIN, max_new_tokens=10)
    assert [answer.text for answer in answers[:2]] == ["fees", "lost"]
    assert [answer.finished for answer in answers] == [True, True, False]
    assert [answer.tokens for answer in answers] == [len(answer) for answer in said]
    assert sum(model.batches) == sum(len(answer) for answer in said)


def test_a_stop_string_ends_an_answer_in_a_batch_as_alone(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase):
    prompts, stop = encoded(messages(10), tokenizer), ("e", "a", "o")
    whole = generate_batch(model, tokenizer, prompts, format=PLAIN, max_new_tokens=NEW_TOKENS)
    together = generate_batch(model, tokenizer, prompts, format=PLAIN, max_new_tokens=NEW_TOKENS, stop=stop)
    alone = [generate_batch(model, tokenizer, [prompt], format=PLAIN, max_new_tokens=NEW_TOKENS, stop=stop)[0] for prompt in prompts]
    assert_same(together, alone)
    assert [answer.text for answer in together] == [re.split("[eao]", answer.text)[0].strip() for answer in whole]
    assert sum(answer.tokens for answer in together) < sum(answer.tokens for answer in whole), "nothing is written after the stop"
    assert all(answer.finished for answer, full in zip(together, whole, strict=True) if set("eao") & set(full.text))


def test_a_prompt_that_leaves_no_room_for_the_answer_is_refused(gemma: Path):
    tokenizer = load_tokenizer(gemma)
    with pytest.raises(PromptTooLong, match=r"1000 tokens.*30.*1024"):
        generate_batch(load_model(gemma), tokenizer, [[5] * 1000], format=PLAIN, max_new_tokens=30)


def write_prompts(path: Path, prompts: Sequence[str]) -> str:
    rows = [json.dumps({"id": f"row-{index}", "prompt": prompt}) for index, prompt in enumerate(prompts)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return str(path)


def read_predictions(path: str) -> list[Prediction]:
    return [Prediction.model_validate_json(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def request_of_three(gemma: Path, tmp_path: Path) -> PredictRequest:
    """Three systems on one base: plain, few-shot, and with an adapter; then the base again."""
    prompts = write_prompts(tmp_path / "prompts.jsonl", messages(7))
    adapter = str(random_adapter(tmp_path / "adapter", base=gemma))
    jobs = (
        PredictJob(name="base", prompts=prompts, output=str(tmp_path / "base.jsonl"), format=PLAIN, max_new_tokens=8),
        PredictJob(name="few_shot", prompts=prompts, output=str(tmp_path / "few.jsonl"), format=PLAIN, shots=shots(3), max_new_tokens=8),
        PredictJob(name="tuned", prompts=prompts, output=str(tmp_path / "tuned.jsonl"), format=PLAIN, adapter=adapter, max_new_tokens=8),
        PredictJob(name="again", prompts=prompts, output=str(tmp_path / "again.jsonl"), format=PLAIN, max_new_tokens=8),
    )
    return PredictRequest(output=str(tmp_path), model=str(gemma), jobs=jobs, batch_rows=3, threads=1)


def test_every_job_answers_all_its_prompts_in_their_order_as_if_alone(request_of_three: PredictRequest, gemma: Path):
    result = run(request_of_three, Reporter(None))
    tokenizer = load_tokenizer(gemma)
    for job, cost in zip(request_of_three.jobs, result.jobs, strict=True):
        answers = read_predictions(job.output)
        assert [answer.id for answer in answers] == [f"row-{index}" for index in range(7)]
        alone = load_model(gemma, adapter=job.adapter)
        tokens = [encode(message, None, tokenizer=tokenizer, format=PLAIN, shots=job.shots).prompt_ids for message in messages(7)]
        expected = [generate_batch(alone, tokenizer, [ids], format=PLAIN, max_new_tokens=8)[0] for ids in tokens]
        assert [answer.text for answer in answers] == [answer.text for answer in expected]
        assert (cost.name, cost.rows) == (job.name, 7)
        assert cost.prompt_tokens == sum(map(len, tokens))
        assert cost.new_tokens == sum(answer.tokens for answer in expected)
    assert not list(Path(request_of_three.output).glob("*.partial"))


def test_the_program_writes_the_same_answers_and_its_result_without_a_network(request_of_three: PredictRequest):
    run(request_of_three, Reporter(None))
    here = {job.name: read_predictions(job.output) for job in request_of_three.jobs}
    for job in request_of_three.jobs:
        Path(job.output).unlink()
    result = PredictResult.read(launch(request_of_three))
    assert [job.name for job in result.jobs] == [job.name for job in request_of_three.jobs]
    assert result.peak_memory_bytes > 100 << 20
    assert {job.name: [answer.text for answer in read_predictions(job.output)] for job in request_of_three.jobs} == {
        name: [answer.text for answer in answers] for name, answers in here.items()
    }


def test_a_fully_fine_tuned_model_answers_instead_of_the_base(gemma: Path, tmp_path: Path):
    whole = tiny_model(tmp_path / "whole", seed=3)
    prompts = write_prompts(tmp_path / "prompts.jsonl", messages(3))
    job = PredictJob(name="full", prompts=prompts, output=str(tmp_path / "full.jsonl"), format=PLAIN, adapter=str(whole), max_new_tokens=4)
    result = run(PredictRequest(output=str(tmp_path), model=str(gemma), jobs=(job,)), Reporter(None))
    assert result.jobs[0].latencies == ()
    tokenizer = load_tokenizer(gemma)
    expected = generate_batch(load_model(whole), tokenizer, encoded(messages(3), tokenizer), format=PLAIN, max_new_tokens=4)
    assert [answer.text for answer in read_predictions(job.output)] == [answer.text for answer in expected]


def test_single_answers_are_timed_beside_the_batches_and_are_no_more_rows(gemma: Path, tmp_path: Path):
    prompts = write_prompts(tmp_path / "prompts.jsonl", messages(3))
    job = PredictJob(name="base", prompts=prompts, output=str(tmp_path / "base.jsonl"), format=PLAIN, max_new_tokens=4, timed_rows=2)
    (done,) = run(PredictRequest(output=str(tmp_path), model=str(gemma), jobs=(job,)), Reporter(None)).jobs
    assert len(done.latencies) == 2
    assert all(0 < seconds < 60 for seconds in done.latencies)
    assert (done.rows, len(read_predictions(job.output))) == (3, 3)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"id": "1", "prompt": "a"}', '{"id": "1", "prompt": "b"}'], r"prompts.jsonl:2: id 1 is also in line 1"),
        (['{"id": "1"}', '{"id": 2, "prompt": "b"}'], r"prompts.jsonl:1: want prompt as text, got only id\n.*:2: want id as text, got 2"),
        (["{id: 1}"], r"prompts.jsonl:1: no JSON"),
        (["[]"], r"prompts.jsonl:1: want an object"),
        ([], "is empty"),
    ],
    ids=["an id twice", "fields missing", "no JSON", "no object", "empty"],
)
def test_bad_prompts_are_refused_before_any_model_is_loaded(lines: list[str], message: str, gemma: Path, tmp_path: Path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(lines), encoding="utf-8")
    without_weights = tmp_path / "model"
    without_weights.mkdir()
    for path in gemma.glob("*.json"):
        (without_weights / path.name).write_bytes(path.read_bytes())
    job = PredictJob(name="base", prompts=str(prompts), output=str(tmp_path / "out.jsonl"), format=PLAIN)
    with pytest.raises(BadRows, match=message):
        run(PredictRequest(output=str(tmp_path), model=str(without_weights), jobs=(job,)), Reporter(None))
    assert not Path(job.output).exists()


def test_a_prompt_too_long_for_the_model_is_named(gemma: Path, tmp_path: Path):
    prompts = write_prompts(tmp_path / "prompts.jsonl", ["short", "long " * 2000])
    job = PredictJob(name="base", prompts=prompts, output=str(tmp_path / "out.jsonl"), format=PLAIN)
    with pytest.raises(PromptTooLong, match=r"prompt of 'row-1' of .* tokens"):
        run(PredictRequest(output=str(tmp_path), model=str(gemma), jobs=(job,)), Reporter(None))


@pytest.mark.parametrize(
    ("widths", "sizes"),
    [
        ([], []),
        ([10] * 7, [3, 3, 1]),
        ([50, 40, 30, 20, 20, 20, 20], [2, 3, 2]),
        ([500, 100, 100, 5], [1, 1, 1, 1]),
    ],
)
def test_a_batch_is_bounded_in_rows_and_in_tokens(widths: list[int], sizes: list[int]):
    parts = [widths[part] for part in batches(widths, rows=3, tokens=100)]
    assert [width for part in parts for width in part] == widths
    assert [len(part) for part in parts] == sizes
