import subprocess
import sys
from pathlib import Path

import pytest

import fine_tune_pipeline
from fine_tune_pipeline.cli import main
from fine_tune_pipeline.spec.reading import InvalidUseCase, read_all, read_use_case

GOOD = """\
type: fine_tune_pipeline.use_case.FineTuneUseCase
attributes:
  name: triage
  objective:
    goal: Route a customer's message to the team that can answer it
    task: {type: classification, labels: [cards, loans]}
    success:
      - {metric: accuracy, at_least: 0.8}
  dataset:
    sources:
      - {type: jsonl, path: rows.jsonl}
"""


def written(folder: Path, text: str, name: str = "defs.yaml") -> Path:
    (folder / "rows.jsonl").touch()
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(InvalidUseCase) as caught:
        read_use_case(written(folder, text))
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


def test_a_good_use_case_shows_its_defaults(tmp_path: Path):
    spec = read_use_case(written(tmp_path, GOOD))
    assert (spec.name, spec.folder, spec.base_model.candidates) == ("triage", tmp_path, ["gemma-3-270m"])
    assert spec.file("rows.jsonl") == tmp_path / "rows.jsonl"


def test_a_path_may_name_an_environment_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "rows.jsonl").touch()
    monkeypatch.setenv("DATA_FOLDER", str(tmp_path / "elsewhere"))
    spec = read_use_case(written(tmp_path, GOOD.replace("rows.jsonl", '"${DATA_FOLDER}/rows.jsonl"')))
    assert spec.file(spec.dataset.sources[0].path) == tmp_path / "elsewhere" / "rows.jsonl"  # type: ignore[union-attr]


BROKEN = {
    "unknown field": (
        "  name: triage",
        "  name: triage\n  nmae: x",
        "defs.yaml:4  attributes.nmae: unknown field; allowed here: name, owners",
    ),
    "near miss is named": ("  objective:", "  objectiv: {}\n  objective:", "did you mean objective?"),
    "missing section": ("  name: triage\n", "", "attributes.name: missing; want Key prefix and group of all assets"),
    "bad name": ("name: triage", "name: Triage!", "defs.yaml:3  attributes.name: got 'Triage!', want text like"),
    "bad owner": ("name: triage", "name: triage\n  owners: [support]", "attributes.owners.0: got 'support', want text like"),
    "empty goal": (
        "goal: Route a customer's message to the team that can answer it",
        "goal: ''",
        "attributes.objective.goal: got '', want ",
    ),
    "wrong tag": (
        "type: classification",
        "type: clasification",
        "want one of classification, extraction, question_answering, generation, preference; did you mean",
    ),
    "no tag": (
        "{type: classification, labels: [cards, loans]}",
        "{labels: [cards]}",
        "attributes.objective.task: `type` is missing; want one of",
    ),
    "field of another branch": (
        "labels: [cards, loans]",
        "labels: [a], schema: x.json",
        "attributes.objective.task.schema: unknown field; allowed here: type, labels",
    ),
    "no criterion": ("      - {metric: accuracy, at_least: 0.8}", "      []", "attributes.objective.success: got [], want "),
    "two demands": (
        "at_least: 0.8",
        "at_least: 0.8, beats: majority",
        "needs exactly one of at_least, at_most, beats, versus; got at_least, beats",
    ),
    "no demand": (", at_least: 0.8", "", "needs exactly one of at_least, at_most, beats, versus; got none"),
    "margin of nothing": ("at_least: 0.8", "at_least: 0.8, by: 0.1", "`by` is the margin of `beats`"),
    "unknown system": ("at_least: 0.8", "beats: gpt", "attributes.objective.success.0.beats: got 'gpt', want 'base_zero_shot'"),
    "number as text": ("at_least: 0.8", "at_least: '0.8'", "attributes.objective.success.0.at_least: got '0.8', want a valid number"),
    "out of range": (
        "  dataset:\n",
        "  training: {epochs: 0}\n  dataset:\n",
        "attributes.training.epochs: got 0, want 'auto' or greater than 0",
    ),
    "wrong word": (
        "  dataset:\n",
        "  training: {learning_rate: fast}\n  dataset:\n",
        "attributes.training.learning_rate: got 'fast', want 'auto' or 'range_test' or a valid number",
    ),
    "text for a list": (
        "  dataset:\n",
        "  base_model: {candidates: gemma}\n  dataset:\n",
        "attributes.base_model.candidates: got 'gemma', want a valid list",
    ),
    "field of no technique": (
        "  dataset:\n",
        "  technique: {type: full, rank: 8}\n  dataset:\n",
        "attributes.technique.rank: unknown field; allowed here: type",
    ),
    "rank too high": (
        "  dataset:\n",
        "  technique: {type: lora, rank: 999}\n  dataset:\n",
        "attributes.technique.rank: got 999, want less than or equal to 256. 8 to 64 is usual",
    ),
    "pissa of packed weights": (
        "  dataset:\n",
        "  technique: {type: qlora, use_pissa: true}\n  dataset:\n",
        "use_pissa: got true, want false with qlora: PiSSA changes the weights, which are packed; take lora",
    ),
    "dropout beside the router": (
        "  dataset:\n",
        "  technique: {type: lora, router: train, dropout: 0.1}\n  dataset:\n",
        "dropout: got 0.1, want 0 with router: train",
    ),
    "dora beside chosen experts": (
        "  dataset:\n",
        "  technique: {type: lora, experts: [0, 3], use_dora: true}\n  dataset:\n",
        "use_dora: got true, want false with experts: [0, 3]",
    ),
    "no layer": ("  dataset:\n", "  technique: {type: lora, layers: []}\n  dataset:\n", "layers: got [], want at least one, and each once"),
    "a layer twice": (
        "  dataset:\n",
        "  technique: {type: lora, layers: [2, 2]}\n  dataset:\n",
        "layers: got [2, 2], want at least one, and each once",
    ),
    "second halves slower": (
        "  dataset:\n",
        "  technique: {type: lora, lora_plus_ratio: 0.5}\n  dataset:\n",
        "attributes.technique.lora_plus_ratio: got 0.5, want greater than or equal to 1",
    ),
    "no sources": ("      - {type: jsonl, path: rows.jsonl}", "      []", "attributes.dataset.sources: got [], want "),
    "unknown source": (
        "type: jsonl",
        "type: xml",
        "attributes.dataset.sources.0: type got 'xml', want one of jsonl, json, csv, parquet, excel, sql",
    ),
    "unknown encoding": (
        "{type: jsonl, path: rows.jsonl}",
        "{type: csv, path: rows.jsonl, encoding: utf-9}",
        "attributes.dataset.sources.0.encoding: got 'utf-9', want an encoding such as utf-8, cp1252 or utf-16",
    ),
    "hub dataset without a commit": (
        "path: rows.jsonl",
        "path: hf://datasets/owner/name@main/rows.jsonl",
        "attributes.dataset.sources.0.path: got 'hf://datasets/owner/name@main/rows.jsonl', want hf://datasets/owner/name@commit/file",
    ),
    "glob without a match": (
        "path: rows.jsonl",
        "path: '*.ndjson'",
        "attributes.dataset.sources.0.path: got '*.ndjson', but there is no",
    ),
    "unknown cleaning rule": (
        "  dataset:\n",
        "  dataset:\n    clean: {skip: [spelling]}\n",
        "attributes.dataset.clean.skip.0: got 'spelling', want 'other_language', 'repetition'",
    ),
    "field of the source": ("path: rows.jsonl", "paht: rows.jsonl", "attributes.dataset.sources.0.paht: unknown field; allowed here:"),
    "missing file": (
        "path: rows.jsonl",
        "path: gone.jsonl",
        "attributes.dataset.sources.0.path: got 'gone.jsonl', but there is no gone.jsonl; relative paths begin at",
    ),
    "missing reviewed texts": (
        "  dataset:\n",
        "  dataset:\n    pii: {adapt: {reviewed: [{path: rows.jsonl}, {path: rows.jsonl, findings: gone.jsonl}]}}\n",
        "attributes.dataset.pii.adapt.reviewed.1.findings: got 'gone.jsonl', but there is no",
    ),
    "missing metric of one's own": (
        "  dataset:\n",
        "    metrics: [{name: polite, better: higher, about: says please}]\n  dataset:\n",
        "attributes.objective.metrics.0.name: got 'metrics/polite/polite.py', but there is no metrics/polite/polite.py",
    ),
    "margin of no guard": ("at_least: 0.8", "at_least: 0.8, margin: 0.1", "`margin` is the margin of `versus`"),
    "slice without a column": (
        "at_least: 0.8",
        "at_least: 0.8, slice: {where: {}}",
        "attributes.objective.success.0.slice.where: got {}, want ",
    ),
    "rule that demands nothing": (
        "  dataset:\n",
        "    voice: {rules: [{name: calm}]}\n  dataset:\n",
        "attributes.objective.voice.rules.0: rule calm demands nothing; give one of never, always",
    ),
    "missing rule file": (
        "  dataset:\n",
        "  dataset:\n    more: {labelling: {rules: [{type: python, name: own, function: 'gone:topic'}]}}\n",
        "attributes.dataset.more.labelling.rules.0.function: got 'gone.py', but there is no",
    ),
    "rule that is no regular expression": (
        "  dataset:\n",
        "  dataset:\n    more: {labelling: {rules: [{type: regex, name: own, pattern: '(', label: cards}]}}\n",
        "attributes.dataset.more.labelling.rules.0.pattern: got '(', want a regular expression",
    ),
    "hard slices without an evaluation": (
        "  dataset:\n",
        "  dataset:\n    more: {augment: [{type: typos, hard: true}]}\n",
        "hard: true needs dataset.more.hard, which names the evaluation",
    ),
    "unset variable": ("path: rows.jsonl", "path: '${NOT_SET_ANYWHERE}/x'", "but that variable is not set; export it before you start"),
    "missing schema file": (
        "{type: classification, labels: [cards, loans]}",
        "{type: extraction, schema: no.json}",
        "attributes.objective.task.schema: got 'no.json', but there is no",
    ),
    "unreadable": ("  objective:\n", "  objective: [\n", "not readable as YAML"),
    "tab": ("  name: triage", "\tname: triage", "not readable as YAML"),
    "twice": ("  name: triage", "  name: triage\n  name: other", "defs.yaml:4  name: given twice in the same mapping"),
    "other type": (
        "use_case.FineTuneUseCase",
        "use_case.Other",
        "defs.yaml:1  type: got 'fine_tune_pipeline.use_case.Other', want fine_tune_pipeline.use_case.FineTuneUseCase",
    ),
    "layout and templates": (
        "path: rows.jsonl",
        "path: rows.jsonl, layout: messages, prompt: '{{ text }}'",
        "attributes.dataset.sources.0: got layout: messages and a template for prompt; want one of them",
    ),
    "column of no layout": ("path: rows.jsonl", "path: rows.jsonl, columns: {messages: talk}", "columns: got messages, want none without"),
    "column of another layout": (
        "path: rows.jsonl",
        "path: rows.jsonl, layout: alpaca, columns: {messages: talk}",
        "columns: got messages, want those of the layout: instruction, input, output, system",
    ),
    "turns of one answer": (
        "path: rows.jsonl",
        "path: rows.jsonl, layout: alpaca, turns: all",
        "turns: layout: alpaca has one answer a row",
    ),
    "missing documents": (
        "path: rows.jsonl}",
        "path: rows.jsonl}\n    documents: [{path: handbook}]",
        "attributes.dataset.documents.0.path: got 'handbook', but there is no handbook",
    ),
    "overlap": (
        "path: rows.jsonl}",
        "path: rows.jsonl}\n    documents: [{path: rows.jsonl, chunk_characters: 200, overlap_characters: 100}]",
        "overlap_characters: got 100, want less than half of chunk_characters, 200",
    ),
    "no attributes": ("attributes:", "attribute:", "attributes: missing; want the use case's fields"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_use_case_says_where_what_and_what_to_do(name: str, tmp_path: Path):
    old, new, wanted = BROKEN[name]
    assert old in GOOD
    said = problems(tmp_path, GOOD.replace(old, new, 1))
    assert any(wanted in line for line in said), said


COMMIT_WANTED = "want the 40 hexadecimal digits of a commit"

CANDIDATES = {
    "branch": ("{type: hub, id: a, repo: acme/tiny, revision: main, licence: MIT}", f".revision: got 'main', {COMMIT_WANTED}"),
    "short hash": ("{type: hub, id: a, repo: acme/tiny, revision: 0a1b2c3d, licence: MIT}", f".revision: got '0a1b2c3d', {COMMIT_WANTED}"),
    "no revision": ("{type: hub, id: a, repo: acme/tiny, licence: MIT}", ".revision: missing; want The 40 hexadecimal digits of a commit"),
    "of the catalogue": ("{type: catalogue, id: qwen3-0.6b, revision: v1.0}", f".revision: got 'v1.0', {COMMIT_WANTED}"),
    "repository": (f"{{type: hub, id: a, repo: tiny, revision: {'a' * 40}, licence: MIT}}", ".repo: got 'tiny', want organisation/name"),
    "no licence": (
        f"{{type: hub, id: a, repo: acme/tiny, revision: {'a' * 40}}}",
        ".licence: missing; want SPDX id",
    ),
    "alias": ("{type: mlflow, id: a, uri: 'models:/m@champion', licence: MIT}", ".uri: got 'models:/m@champion', want models:/name/3"),
    "latest": ("{type: mlflow, id: a, uri: 'models:/m/latest', licence: MIT}", ".uri: got 'models:/m/latest', want models:/name/3"),
    "whole run": ("{type: mlflow, id: a, uri: 'runs:/abc', licence: MIT}", ".uri: got 'runs:/abc', want models:/name/3"),
    "gguf file": (
        f"{{type: gguf, id: a, path: no.gguf, sha256: {'a' * 64}, licence: MIT}}",
        ".path: got 'no.gguf', but there is no",
    ),
    "gguf hash": ("{type: gguf, id: a, path: no.gguf, licence: MIT}", ".sha256: missing; want SHA-256 of the file"),
    "short sha": ("{type: gguf, id: a, path: no.gguf, sha256: abc, licence: MIT}", ".sha256: got 'abc', want 64 hexadecimal digits"),
    "other type": ("{type: hubb, id: a}", ": type got 'hubb', want one of"),
    "no type": ("{id: a, path: m}", ": `type` is missing; want one of"),
}


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_broken_candidate_is_seen_without_a_network(name: str, tmp_path: Path):
    entry, said = CANDIDATES[name]
    [problem] = problems(tmp_path, GOOD + f"  base_model:\n    candidates:\n      - {entry}\n")
    assert problem.startswith(f"defs.yaml:14  attributes.base_model.candidates.0{said}")


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ("['<intent>', '']", "got '', want a text that neither is empty nor begins or ends with white space"),
        ("['   ']", "got '   ', want a text that neither is empty nor begins or ends with white space"),
        ("['<intent> ']", "got '<intent> ', want a text that neither is empty nor begins or ends with white space"),
        ("['<a>', '<b>', '<a>']", "got '<a>' twice, want each once"),
        ('["a\\nb"]', r"got 'a\nb', want printable characters in composed form (NFC)"),
        ('["e\\u0301"]', "want printable characters in composed form (NFC)"),
        (str([f"<{number}>" for number in range(1025)]), "1024"),
    ],
    ids=["empty", "white space", "its end", "twice", "a line break", "decomposed", "too many"],
)
def test_added_tokens_that_could_never_be_read_are_told(tokens: str, said: str, tmp_path: Path):
    [problem] = problems(tmp_path, GOOD + f"  base_model:\n    added_tokens: {tokens}\n")
    assert problem.startswith("defs.yaml:13  attributes.base_model.added_tokens")
    assert said in problem


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path):
    text = GOOD.replace("name: triage", "name: Bad Name").replace("at_least: 0.8", "at_least: x").replace("type: jsonl", "type: xml")
    assert [line.split(":")[1].split()[0] for line in problems(tmp_path, text)] == ["3", "8", "11"]


def test_text_that_is_not_utf8_is_refused_with_the_byte(tmp_path: Path):
    path = tmp_path / "defs.yaml"
    path.write_bytes(b"type: \xff")
    with pytest.raises(InvalidUseCase, match=r"defs.yaml:1  not UTF-8 text \(byte 6\); save it as UTF-8"):
        read_use_case(path)


def test_two_use_cases_of_one_name_are_refused(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        written(tmp_path / name, GOOD)
    specs, said = read_all([tmp_path])
    assert len(specs) == 1
    assert "attributes.name: got 'triage', which" in str(said[0])


def test_a_path_without_use_cases_is_a_problem(tmp_path: Path):
    _, said = read_all([tmp_path, tmp_path / "gone.yaml"])
    assert ["no defs.yaml in this folder" in str(said[0]), "there is no such file" in str(said[1])] == [True, True]


def test_check_exits_1_on_error_and_imports_neither_dagster_nor_torch(tmp_path: Path):
    good, bad = written(tmp_path, GOOD), written(tmp_path, GOOD.replace("triage", "T"), "bad.yaml")
    script = (
        "import sys; from fine_tune_pipeline.cli import main; code = main(sys.argv[1:]);"
        "heavy = [name for name in ('dagster', 'torch', 'transformers', 'mlflow') if name in sys.modules]; print(code, heavy)"
    )
    codes = [
        subprocess.run([sys.executable, "-c", script, "check", str(path)], capture_output=True, text=True).stdout.splitlines()[-1]
        for path in (good, bad)
    ]
    assert codes == ["0 []", "1 []"]


def test_check_looks_into_the_catalogue_for_candidates(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = written(tmp_path, GOOD + "  base_model: {candidates: [qwen3-4bb]}\n")
    assert main(["check", str(path)]) == 1
    assert "base_model.candidates: got 'qwen3-4bb' (did you mean qwen3-4b?)" in capsys.readouterr().out
    assert main(["check", "--no-files", str(path)]) == 0


@pytest.mark.parametrize(
    ("shipped", "options"), [("fine_tune_pipeline/defs/use_case.schema.json", []), ("docs/use_case.md", ["--markdown"])]
)
def test_what_is_shipped_of_the_spec_is_what_the_command_prints(shipped: str, options: list[str], capsys: pytest.CaptureFixture[str]):
    root = Path(fine_tune_pipeline.__file__).parents[1]
    assert main(["schema", *options]) == 0
    assert capsys.readouterr().out == (root / shipped).read_text(encoding="utf-8")
