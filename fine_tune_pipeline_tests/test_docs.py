"""What README and docs promise to be there is there, and their examples are right."""

import re
from pathlib import Path

import pytest
import yaml

import fine_tune_pipeline
from fine_tune_pipeline.cli import main
from fine_tune_pipeline.guide.base_model.catalogue import catalogue
from fine_tune_pipeline.guide.base_model.catalogue_files import extended, read_catalogue
from fine_tune_pipeline.spec.base_model import BaseModelSpec
from fine_tune_pipeline.spec.objective import ObjectiveSpec
from fine_tune_pipeline.use_case import GUIDE

ROOT = Path(fine_tune_pipeline.__file__).parents[1]
PAGES = sorted(
    [
        *(ROOT / "README.md", ROOT / "CHANGELOG.md"),
        *(page for folder in ("docs", "examples", "fine_tune_pipeline/defs") for page in (ROOT / folder).rglob("*.md")),
    ]
)
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)[^)]*\)")
EXAMPLE = re.compile(r"^```yaml\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_to_a_file_leads_somewhere(page: Path):
    assert [target for target in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / target).exists()] == []


def test_every_page_of_the_web_site_is_there_and_in_its_contents():
    def pages(entries: object) -> list[str]:
        if isinstance(entries, str):
            return [entries]
        children = entries if isinstance(entries, list) else list(entries.values()) if isinstance(entries, dict) else []
        return [page for child in children for page in pages(child)]

    contents = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(pages(contents["nav"])) == sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", ["README.md", "docs/dataset.md", "docs/hosted.md", "docs/people.md"])
def test_the_use_case_of_a_page_has_no_mistake(page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    examples = EXAMPLE.findall((ROOT / page).read_text(encoding="utf-8"))
    assert examples
    for number, example in enumerate(examples):
        path = tmp_path / str(number) / "defs.yaml"
        path.parent.mkdir()
        path.write_text(example, encoding="utf-8")
        assert main(["check", "--no-files", str(path)]) == 0, capsys.readouterr().out


def test_the_objectives_of_a_page_have_no_mistake():
    whole = {"goal": "Answer customers", "task": {"type": "generation"}, "success": [{"metric": "rouge_l", "at_least": 0.5}]}
    examples = EXAMPLE.findall((ROOT / "docs" / "objective.md").read_text(encoding="utf-8"))
    assert len(examples) == 3
    for example in examples:
        ObjectiveSpec.model_validate({**whole, **yaml.safe_load(example)["objective"]})


def test_the_catalogue_of_a_page_has_no_mistake(tmp_path: Path):
    [example] = EXAMPLE.findall((ROOT / "docs" / "base_model.md").read_text(encoding="utf-8"))
    (tmp_path / "ours.yaml").write_text(example, encoding="utf-8")
    found = extended(catalogue(), read_catalogue(tmp_path / "ours.yaml", catalogue()))
    hosted = found.hosted_model("gpt-4.1-mini")
    assert found.model("ours-small") is not None
    assert hosted is not None
    assert hosted.price is not None


def test_the_candidates_of_a_page_have_no_mistake():
    examples = EXAMPLE.findall((ROOT / "docs" / "base_model_sources.md").read_text(encoding="utf-8"))
    first, *_ = [BaseModelSpec.model_validate(yaml.safe_load(example)["base_model"]) for example in examples]
    assert len({type(candidate) for candidate in first.candidates}) == len(first.candidates) == 6


def test_the_pictures_of_the_guide_show_every_asset():
    for page in (ROOT / "README.md", ROOT / "docs" / "index.md"):
        text = page.read_text(encoding="utf-8")
        assert [factory.__name__ for factory in GUIDE if factory.__name__ not in text] == [], page
