import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from fine_tune_pipeline.artifacts.examples import Example, write_examples
from fine_tune_pipeline.guide.base_model.hardware import inventory_of_named
from fine_tune_pipeline.guide.base_model.local import read_model_folder
from fine_tune_pipeline.guide.technique.calibration import FIXED_AT_MOST, Observation, Run, as_content, correction, from_content, observed
from fine_tune_pipeline.guide.technique.comparisons import work_of
from fine_tune_pipeline.guide.technique.correction import Kind
from fine_tune_pipeline.guide.technique.plan import Job, Place, make_plan
from fine_tune_pipeline.programs import train
from fine_tune_pipeline.programs.requests import PromptFormat, TrainRequest
from fine_tune_pipeline.spec.technique import Lora, TechniqueSpec
from fine_tune_pipeline.spec.training import TrainingSpec
from fine_tune_pipeline_tests.small_training import Recorder
from fine_tune_pipeline_tests.tiny import tiny_model

MIB = 1 << 20

ONE_CORE = inventory_of_named("CPU").model_copy(update={"cpu_cores": 1})


def rows(count: int, words: int) -> list[Example]:
    return [Example(str(number), "my card was charged twice " * words + str(number), "duplicate_charge") for number in range(count)]


class Bench:
    """Plans and really trains on one core; seconds are those of the processor, which other programs cannot stretch."""

    def __init__(self, folder: Path, technique: TechniqueSpec, training: TrainingSpec | None = None) -> None:
        self.folder = folder
        self.training = training or TrainingSpec(epochs=2)
        self.technique = technique
        self.model = read_model_folder(tiny_model(folder / "model", architecture="llama"))
        self.observations: list[Observation] = []

    def run(self, train_rows: list[Example]) -> tuple[float, float]:
        """Seconds as planned with what was learned so far, and as measured."""
        learned = correction(self.observations, inventory=ONE_CORE, family="llama", model="tiny")
        work = work_of(train_rows, train_rows, training=self.training)
        job = Job(self.model.architecture, 1024, work, self.technique, self.training)
        plan, _ = make_plan(job, Place.of(ONE_CORE, headroom=0.1, corrections=learned))
        output = Path(tempfile.mkdtemp(dir=self.folder))
        write_examples(output / "rows.jsonl", train_rows)
        request = TrainRequest(
            output=str(output),
            model=str(self.model.path),
            train=str(output / "rows.jsonl"),
            validation=str(output / "rows.jsonl"),
            format=PromptFormat(),
            technique=plan.technique,
            hyperparameters=plan.hyperparameters,
            placement=plan.placement,
        )
        result = train.run(request, Recorder())
        result = result.model_copy(update={"seconds": result.cpu_seconds})
        run = Run(plan, self.model.architecture, "tiny", work, ONE_CORE, result)
        self.observations.append(observed(run, made_at=f"2026-01-{len(self.observations):02d}"))
        return plan.chosen.loop_seconds, result.seconds


@pytest.mark.parametrize("technique", [Lora(type="lora"), Lora(type="lora", use_dora=True)], ids=["lora", "dora"])
def test_after_one_run_the_time_of_another_text_is_foreseen_within_thirty_percent(tmp_path, technique):
    bench = Bench(tmp_path, technique)
    # The first training of a process warms libraries up; in a small one that would be most of the time.
    bench.run(rows(8, words=3))
    bench.observations.clear()
    bench.run(rows(120, words=3))
    planned, measured = bench.run(rows(60, words=10))
    assert planned == pytest.approx(measured, rel=0.3)


@pytest.mark.parametrize("method", ["dpo", "orpo", "kto"])
def test_of_compared_answers_every_token_is_foreseen_once(tmp_path, method):
    pairs = [replace(row, rejected="lost_card") for row in rows(12, words=3)]
    (tmp_path / "compared").mkdir()
    supervised, compared = (
        Bench(tmp_path, Lora(type="lora")),
        Bench(tmp_path / "compared", Lora(type="lora"), TrainingSpec(epochs=2, preference={"type": method})),
    )
    supervised.run(pairs)
    compared.run(pairs)
    factors = [found.tokens / found.likely_tokens for bench in (supervised, compared) for found in bench.observations]
    assert factors[1] == pytest.approx(factors[0], rel=0.1)
    assert [found.method for found in compared.observations] == [method]


def seen(**changes: object) -> Observation:
    facts: dict[str, object] = {
        "place": ONE_CORE.place,
        "device": "CPU",
        "technique": "lora",
        "dtype": "float32",
        "family": "llama",
        "model": "tiny",
        "made_at": "2026-01-01",
        "proportional_bytes": 100 * MIB,
        "fixed_bytes": 500 * MIB,
        "peak_bytes": 700 * MIB,
        "predicted_seconds": 10.0,
        "seconds": 20.0,
        "likely_tokens": 1000.0,
        "tokens": 1500,
    }
    return Observation.model_validate(facts | changes)


def learned(*observations: Observation, **place: str):
    return correction(observations, inventory=ONE_CORE, **{"family": "llama", "model": "tiny"} | place)


def test_a_small_surplus_of_memory_is_laid_to_what_no_text_changes():
    found = learned(seen())[Kind("lora", "float32")]
    assert (found.fixed_bytes, found.memory, found.seconds, found.tokens) == (600 * MIB, 1.0, 2.0, 1.5)


def test_a_large_surplus_grows_with_the_text():
    found = learned(seen(proportional_bytes=2000 * MIB, peak_bytes=3756 * MIB))[Kind("lora", "float32")]
    assert found.fixed_bytes == 500 * MIB + FIXED_AT_MOST
    assert found.memory == pytest.approx(1.5)


def test_less_than_predicted_shrinks_the_next_prediction():
    assert learned(seen(peak_bytes=550 * MIB))[Kind("lora", "float32")].memory == 0.5


@pytest.mark.parametrize(
    "other",
    [{"place": "elsewhere"}, {"device": "H100"}, {"family": "gemma3_text"}],
    ids=["another place", "another device", "another family"],
)
def test_runs_of_another_kind_teach_nothing(other):
    assert learned(seen(**other)) == {}


def test_techniques_and_number_formats_are_corrected_apart_and_by_the_middle_of_the_last_runs():
    many = [seen(seconds=10.0 * number, made_at=f"2026-01-{number:02d}") for number in range(1, 9)]
    found = learned(*reversed(many), seen(technique="dora"), seen(dtype="bfloat16"))
    assert set(found) == {Kind("lora", "float32"), Kind("dora", "float32"), Kind("lora", "bfloat16")}
    assert (found[Kind("lora", "float32")].runs, found[Kind("lora", "float32")].seconds) == (5, 6.0)


def test_what_is_learned_from_is_corrected_apart_and_notes_from_before_are_supervised():
    old = {name: value for name, value in seen().model_dump().items() if name != "method"}
    found = learned(Observation.model_validate(old), seen(method="dpo", seconds=30.0))
    assert found[Kind("lora", "float32", "supervised")].seconds == 2.0
    assert found[Kind("lora", "float32", "dpo")].seconds == 3.0
    assert from_content(as_content(found)) == found


def test_tokens_are_those_of_the_same_base_model():
    assert learned(seen(), model="another")[Kind("lora", "float32")].tokens == 1.0


def test_the_factors_come_back_from_the_payload_of_a_plan():
    found = learned(seen(technique="lora + experts"))
    assert from_content(as_content(found)) == found


def test_an_accelerator_keeps_the_memory_that_its_formula_gives_it():
    place = inventory_of_named("L4")
    found = correction([seen(place=place.place, device="L4", fixed_bytes=0)], inventory=place, family="llama", model="tiny")
    assert found[Kind("lora", "float32")].fixed_bytes is None
