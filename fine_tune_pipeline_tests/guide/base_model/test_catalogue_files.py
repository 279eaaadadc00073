from datetime import date
from pathlib import Path

import pytest

from fine_tune_pipeline.guide.base_model.catalogue import Catalogue, catalogue
from fine_tune_pipeline.guide.base_model.catalogue_files import candidate_problems, catalogue_of, read_catalogue
from fine_tune_pipeline.spec.reading import InvalidUseCase
from fine_tune_pipeline_tests.guide.technique.stand_ins import use_case

OURS = """\
licences:
  - {id: LicenseRef-Ours, commercial: conditions, research: fail, obligations: ask the legal department}
models:
  - id: ours-tiny
    hub: ours/tiny
    parameters: 177920
    context: 2048
    licence: LicenseRef-Ours
    gated: false
    architecture: {hidden: 64, layers: 2, heads: 4, kv_heads: 4, head_dim: 16, mlp_width: 128, vocabulary: 1500, tied: true}
    facts: {source: our model card, as_of: 2026-11-01}
prices:
  - {id: gpt-4.1-mini, train: 5, input: 0.8, output: 3.2, currency: USD, as_of: 2026-11-20, source: an offer}
  - {id: ours-tiny, hosting_hour: 1.5, currency: EUR, as_of: 2026-11-20, source: our data centre}
"""


PINNED = {"type": "catalogue", "id": "gemma-9", "revision": "0" * 40}


def extended(tmp_path: Path, *texts: str) -> Catalogue:
    names = [f"{number}.yaml" for number in range(len(texts))]
    for name, text in zip(names, texts, strict=True):
        (tmp_path / name).write_text(text, encoding="utf-8")
    return catalogue_of(use_case(tmp_path, base_model={"candidates": ["gemma-3-270m"], "catalogue": names}))


def test_a_file_adds_models_licences_and_prices_beside_the_shipped_ones(tmp_path):
    found = extended(tmp_path, OURS)
    ours, hosted = found.model("ours-tiny"), found.hosted_model("gpt-4.1-mini")
    assert ours is not None
    assert hosted is not None
    assert (ours.context, ours.price and ours.price.hosting_hour) == (2048, 1.5)
    assert (found.licence("LicenseRef-Ours").commercial, found.licence("LicenseRef-Ours").research) == ("conditions", "fail")
    assert hosted.price is not None
    assert (hosted.price.train, hosted.price.currency, hosted.price.as_of) == (5, "USD", date(2026, 11, 20))
    assert hosted.shutdown_date == date(2027, 1, 14)
    assert len(found.models) == len(catalogue().models) + 1


def test_a_row_of_the_same_id_replaces_the_shipped_one_and_a_later_file_the_earlier(tmp_path):
    text = "licences: [{id: LicenseRef-Gemma-Terms, commercial: pass, obligations: our lawyers agreed}]"
    assert extended(tmp_path, text).licence("LicenseRef-Gemma-Terms").commercial == "pass"
    assert extended(tmp_path, text, text.replace("pass", "fail")).licence("LicenseRef-Gemma-Terms").commercial == "fail"
    assert catalogue().licence("LicenseRef-Gemma-Terms").commercial == "conditions"


def test_without_files_the_catalogue_is_the_shipped_one(tmp_path):
    assert extended(tmp_path) == catalogue()


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        ("gemma-9", "got 'gemma-9'"),
        ("gpt-4o", "gpt-4o has no open weights"),
        (PINNED, "'gemma-9'"),
    ],
)
def test_a_candidate_that_the_catalogue_does_not_have_is_a_problem_of_the_use_case(tmp_path, candidate, said):
    [problem] = candidate_problems(use_case(tmp_path, base_model={"candidates": ["qwen3-4b", candidate]}))
    assert said in problem.message


def test_mistakes_of_its_catalogue_files_are_problems_of_the_use_case(tmp_path):
    (tmp_path / "ours.yaml").write_text("models: 3", encoding="utf-8")
    spec = use_case(tmp_path, base_model={"catalogue": ["ours.yaml"]})
    assert [problem.field for problem in candidate_problems(spec)] == ["models"]
    assert candidate_problems(use_case(tmp_path)) == []


def problems(tmp_path: Path, text: str) -> str:
    (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InvalidUseCase) as caught:
        read_catalogue(tmp_path / "bad.yaml", catalogue())
    return str(caught.value).replace(str(tmp_path), "")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("hidden: 64", "hidden: -64", "/bad.yaml:10  models[0] (ours-tiny).architecture.hidden: got -64, want greater than 0"),
        ("context: 2048", "context: 0", "/bad.yaml:7  models[0] (ours-tiny).context: got 0, want greater than 0"),
        ("parameters: 177920", "parameters: 9", "models[0] (ours-tiny): parameters got 9, but the numbers of its architecture make 177920"),
        ("licence: LicenseRef-Ours", "licence: 3", "models[0] (ours-tiny).licence: got 3, want a valid string"),
        ("as_of: 2026-11-20, source: an offer", "source: an offer", "/bad.yaml:13  prices[0] (gpt-4.1-mini).as_of: missing"),
        ("train: 5", "train: -5", "prices[0] (gpt-4.1-mini).train: got -5, want greater than or equal to 0"),
        ("currency: USD", "currency: dollars", "prices[0] (gpt-4.1-mini).currency: got 'dollars'"),
        ("id: gpt-4.1-mini", "id: gpt-9", "prices[0] (gpt-9).id: no model of this id in the catalogue"),
        ("commercial: conditions", "commercial: maybe", "licences[0] (LicenseRef-Ours).commercial: got 'maybe', want 'pass'"),
        ("gated: false", "gatted: false", "models[0] (ours-tiny).gatted: unknown field"),
        ("prices:", "price:", "price: unknown field; allowed at the top: licences, models, hosted, prices"),
    ],
)
def test_a_mistake_is_told_with_file_line_entry_and_field(tmp_path, old, new, said):
    assert said in problems(tmp_path, OURS.replace(old, new))


def test_all_mistakes_of_all_files_are_told_at_once(tmp_path):
    with pytest.raises(InvalidUseCase) as caught:
        extended(tmp_path, OURS.replace("hidden: 64", "hidden: 0").replace("train: 5", "train: x"), "models: [{id: other}]")
    said = str(caught.value)
    assert "0.yaml:10  models[0] (ours-tiny).architecture.hidden" in said
    assert "prices[0] (gpt-4.1-mini).train: got 'x'" in said
    assert "1.yaml:1  models[0] (other).architecture: missing" in said


@pytest.mark.parametrize("part", ["models", "licences", "prices", "hosted"])
def test_two_rows_of_one_id_are_refused(tmp_path, part):
    hosted = "{id: mine, provider: Us, name: mine-1, context: 9, licence: MIT, facts: {source: us, as_of: 2026-11-01}}"
    price = "{id: gpt-4o, currency: USD, as_of: 2026-11-20, source: an offer}"
    licence = "{id: MIT, commercial: pass, obligations: none}"
    architecture = "{hidden: 64, layers: 2, heads: 4, kv_heads: 4, head_dim: 16, mlp_width: 128, vocabulary: 1500, tied: true}"
    facts = "facts: {source: us, as_of: 2026-11-01}"
    model = f"{{id: mine, hub: m/m, parameters: 177920, context: 9, licence: MIT, gated: null, architecture: {architecture}, {facts}}}"
    rows = {"models": model, "licences": licence, "prices": price, "hosted": hosted}
    said = problems(tmp_path, f"{part}:\n  - {rows[part]}\n  - {rows[part]}\n")
    assert f"/bad.yaml:3  {part}[1]" in said
    assert f"the id stands at {part}[0]" in said
    both = problems(tmp_path, f"models: [{model}]\nhosted: [{hosted}]\n")
    assert "hosted[0] (mine): the id stands at models[0] (mine) too" in both


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n- b\n", "empty, or not a mapping; want the fields licences, models, hosted, prices"),
        ("", "empty, or not a mapping"),
        ("models: [", "not readable as YAML"),
        ("models: []\nmodels: []\n", "given twice in the same mapping"),
        ("models: 3\n", "models: got 3, want a valid tuple"),
        ("models: [3]\n", "models[0]: got 3, want a valid dictionary"),
    ],
)
def test_a_file_that_is_no_catalogue_is_refused(tmp_path, text, said):
    assert said in problems(tmp_path, text)


def test_a_file_that_is_not_there_is_told_by_its_name(tmp_path):
    with pytest.raises(InvalidUseCase, match=r"nowhere\.yaml.*cannot be read"):
        read_catalogue(tmp_path / "nowhere.yaml", catalogue())
