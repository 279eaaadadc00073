"""Rows become examples by templates; what cannot is in the quarantine with file, row and column."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openpyxl import Workbook

from fine_tune_pipeline.artifacts.documents import read_chunks
from fine_tune_pipeline.artifacts.examples import read_examples
from fine_tune_pipeline.artifacts.quarantine import read_quarantine
from fine_tune_pipeline.guide.dataset.sources.collect import FEEDBACK, EmptySource, NoExamples, collected, gather
from fine_tune_pipeline.guide.dataset.sources.production import Production
from fine_tune_pipeline.guide.dataset.sources.shape import BrokenTemplate, ReservedColumn, UnstatedLayout
from fine_tune_pipeline.guide.dataset.steps import read_steps
from fine_tune_pipeline_tests.guide.dataset.make import ids, jsonl, use_case

CORRECTION = {"id": "r1", "prompt": "red and round", "completion": "apple", "version": "3"}


def run(folder, *, corrections=(), **dataset):
    out = folder / "out"
    out.mkdir(exist_ok=True)
    spec = use_case(folder, **dataset)
    built = collected(gather(spec, production=Production(corrections)), out, seed=0)
    return read_examples(out / "examples.jsonl"), read_quarantine(out), built


def source(**more):
    return [{"type": "jsonl", "path": "rows.jsonl", **more}]


def test_templates_make_prompt_and_completion_and_columns_become_metadata(tmp_path):
    jsonl(tmp_path / "rows.jsonl", [{"id": 7, "text": "  Hi <b> ", "answer": {"a": 1, "b": "ü&"}, "shop": None}])
    columns = {"prompt": "Q: {{ text }}\n", "completion": "{{ answer }}", "metadata": ["shop"], "name": "shop"}
    [only], _, _ = run(tmp_path, sources=source(**columns))
    assert (only.id, only.prompt, only.source, only.held_out) == ("7", "Q:   Hi <b> \n", "shop", False)
    assert only.completion == '{"a": 1, "b": "ü&"}'
    assert only.metadata == {"shop": ""}


def test_tojson_in_a_template_writes_json_and_not_html(tmp_path):
    jsonl(tmp_path / "rows.jsonl", [{"text": "x", "label": 'it\'s <b> & "q"'}])
    [only], _, _ = run(tmp_path, sources=source(prompt="{{ text }}", completion='{"label": {{ label | tojson }}}'))
    assert json.loads(only.completion) == {"label": 'it\'s <b> & "q"'}
    assert "&" in only.completion


def test_a_row_without_a_column_names_source_row_and_column(tmp_path):
    jsonl(tmp_path / "rows.jsonl", [{"text": "a", "label": "apple"}, {"txt": "b", "label": "apple"}, "not json"])
    kept, quarantine, built = run(tmp_path, sources=source(prompt="{{ text }}", completion="{{ label }}"))
    assert [row.reason for row in quarantine] == ["missing_column", "broken_row"]
    assert "jsonl:rows.jsonl, row 2: prompt: 'text' is undefined; the row has 'txt', 'label'" in quarantine[0].detail
    assert quarantine[0].original == {"txt": "b", "label": "apple"}
    assert (len(kept), built.metadata["rows_in"], built.metadata["rows_quarantined"]) == (1, 3, 2)


@pytest.mark.parametrize(
    "template",
    ["{{ text + 1 }}", "{{ 1 // (text | length - 1) }}", "{{ ''.__class__.__mro__ }}", "{{ range(10**9) | list }}"],
)
def test_a_template_that_fails_on_a_row_costs_only_that_row(tmp_path, template):
    jsonl(tmp_path / "rows.jsonl", [{"text": "a", "label": "apple"}, {"text": "a fine one", "label": "pear", "fine": True}])
    prompt = "{{ text if fine is defined else " + template.strip("{} ") + " }}"
    kept, quarantine, _ = run(tmp_path, sources=source(prompt=prompt, completion="{{ label }}"))
    assert [example.prompt for example in kept] == ["a fine one"]
    assert [row.reason for row in quarantine] in (["template_failed"], ["missing_column"])


def test_a_template_that_is_none_is_an_error_with_its_field(tmp_path):
    jsonl(tmp_path / "rows.jsonl", [{"text": "a"}])
    with pytest.raises(BrokenTemplate, match=r"dataset\.sources\[0\].*completion: not a Jinja template"):
        run(tmp_path, sources=source(completion="{{ text"))


def test_a_metadata_column_may_not_have_the_name_of_a_mark(tmp_path):
    jsonl(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "apple", "cluster": "x"}])
    with pytest.raises(ReservedColumn, match="cluster"):
        run(tmp_path, sources=source(metadata=["cluster"]))


def test_if_no_row_becomes_an_example_the_first_reasons_are_told(tmp_path):
    jsonl(tmp_path / "rows.jsonl", [{"text": "a"}] * 5)
    with pytest.raises(NoExamples, match=r"none of 5 rows .*'prompt' is undefined"):
        run(tmp_path)


def test_a_source_whose_schema_has_changed_stops_though_others_are_fine(tmp_path):
    jsonl(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "apple"}])
    jsonl(tmp_path / "renamed.jsonl", [{"prompt": "b", "fruit": "pear"}] * 4)
    wanted = r"dataset\.sources\[1\] .*none of 4 rows became an example\. missing_column: .*'completion' is undefined; the row has 'prompt'"
    with pytest.raises(NoExamples, match=wanted):
        run(tmp_path, sources=[*source(), {"type": "jsonl", "path": "renamed.jsonl"}])


def test_ids_are_the_rows_own_else_their_content_and_always_unique(tmp_path):
    row = {"prompt": "a", "completion": "apple"}
    jsonl(
        tmp_path / "rows.jsonl", [{**row, "id": "x"}, {**row, "id": "x", "prompt": "b"}, {**row, "id": "x-2"}, row, row, {**row, "id": ""}]
    )
    kept, _, built = run(tmp_path)
    assert ids(kept)[:3] == ["x", "x-3", "x-2"]
    assert kept[1].metadata == {"original_id": "x"}
    assert len(set(ids(kept))) == 6
    assert ids(kept)[4] == ids(kept)[3] + "-2"
    assert built.metadata["rows_fixed"] == 2


def test_content_ids_do_not_depend_on_the_order_of_rows_or_columns(tmp_path):
    rows = [{"prompt": f"p{n}", "completion": "apple"} for n in range(5)]
    jsonl(tmp_path / "rows.jsonl", rows)
    first, _, _ = run(tmp_path)
    jsonl(tmp_path / "rows.jsonl", [dict(reversed(row.items())) for row in reversed(rows)])
    second, _, _ = run(tmp_path)
    assert ids(first) == ids(second)[::-1]


def test_a_sample_keeps_its_rows_when_data_grows_but_for_those_that_are_replaced(tmp_path):
    rows = [{"id": n, "prompt": f"p{n}", "completion": "apple"} for n in range(200)]
    jsonl(tmp_path / "rows.jsonl", rows[:100])
    small, _, built = run(tmp_path, sources=source(sample=40))
    jsonl(tmp_path / "rows.jsonl", rows)
    large, _, _ = run(tmp_path, sources=source(sample=40))
    of_old = {id_ for id_ in ids(large) if int(id_) < 100}
    assert len(small) == len(large) == 40
    assert of_old <= set(ids(small))
    assert built.metadata["sources"][0]["rows"] == 100
    assert ids(small) == sorted(ids(small), key=int)


def test_held_out_sources_and_corrections_are_told_apart(tmp_path):
    jsonl(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "apple"}])
    jsonl(tmp_path / "test.jsonl", [{"prompt": "b", "completion": "pear"}])
    held_out = [{"type": "jsonl", "path": "test.jsonl", "licence": "CC0-1.0"}]
    kept, _, built = run(tmp_path, held_out=held_out, corrections=[CORRECTION])
    assert [(example.prompt, example.held_out, example.source) for example in kept] == [
        ("a", False, "jsonl:rows.jsonl"),
        ("b", True, "jsonl:test.jsonl"),
        ("red and round", False, FEEDBACK),
    ]
    assert kept[2].metadata == {"model_version": "3", "request_id": CORRECTION["id"]}
    assert built.metadata["held_out"] == built.metadata["corrections"] == 1
    assert [line["licence"] for line in built.metadata["sources"]] == ["not stated", "CC0-1.0", "own traffic"]


def test_the_id_of_a_correction_is_decided_by_what_it_says(tmp_path):
    jsonl(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "apple"}])
    first, _, _ = run(tmp_path, corrections=[CORRECTION])
    again, _, _ = run(tmp_path, corrections=[{**CORRECTION, "id": "another-request"}, CORRECTION])
    other, _, _ = run(tmp_path, corrections=[{**CORRECTION, "completion": "plum"}])
    assert ids(again)[1:] == [ids(first)[1], f"{ids(first)[1]}-2"]
    assert ids(other)[1] != ids(first)[1]


def test_what_decides_the_output_is_content_and_templates_and_never_a_place(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        jsonl(folder / "rows.jsonl", [{"prompt": "a", "completion": "apple"}])
    before = gather(use_case(here)).what()
    assert gather(use_case(there)).what() == before
    assert str(tmp_path) not in json.dumps(before)
    assert gather(use_case(here), production=Production([CORRECTION])).what() != before
    assert gather(use_case(here, sources=source(prompt="{{ prompt }}!"))).what() != before
    jsonl(here / "rows.jsonl", [{"prompt": "b", "completion": "apple"}])
    assert gather(use_case(here)).what() != before


def test_the_record_of_the_step_adds_up(tmp_path):
    jsonl(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "apple"}, "broken", {"prompt": "b"}])
    run(tmp_path)
    [step] = read_steps(tmp_path / "out")
    assert (step.rows_in, step.kept, step.quarantined) == (3, 1, {"broken_row": 1, "missing_column": 1})


def test_a_source_without_rows_is_refused_by_its_field(tmp_path):
    jsonl(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "apple"}])
    (tmp_path / "empty.csv").write_text("prompt,completion\n", encoding="utf-8")
    with pytest.raises(EmptySource, match=r"dataset\.sources\[1\] .*empty\.csv\): holds no rows"):
        run(tmp_path, sources=[*source(), {"type": "csv", "path": "empty.csv"}])


def test_rows_of_several_files_are_told_apart_in_the_quarantine_and_sampled_in_their_order(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        jsonl(tmp_path / "in" / f"{name}.jsonl", [*({"prompt": f"{name}{n}", "completion": "apple"} for n in range(9)), "broken"])
    kept, quarantine, _ = run(tmp_path, sources=[{"type": "jsonl", "path": "in"}])
    places = [row.detail.removeprefix("jsonl:in, ").partition(":")[0] for row in quarantine]
    assert places == ["a.jsonl, row 10", "b.jsonl, row 10"]
    some, _, _ = run(tmp_path, sources=[{"type": "jsonl", "path": "in", "sample": 7}])
    order = [example.prompt for example in kept]
    assert [order.index(example.prompt) for example in some] == sorted(order.index(example.prompt) for example in some)


CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "apple"}, {"role": "user", "content": "b"}]


def test_conversations_become_examples_with_history_and_the_broken_ones_lie_in_the_quarantine(tmp_path):
    talk = [*CHAT, {"role": "assistant", "content": "pear"}]
    rows = [{"id": "x", "messages": talk, "shop": 1}, {"messages": talk[1:], "shop": 1}, {"messages": CHAT, "shop": 2}]
    jsonl(tmp_path / "rows.jsonl", rows)
    kept, quarantine, built = run(tmp_path, sources=source(layout="messages", metadata=["shop"], licence="own"))
    assert [(example.prompt, example.completion, example.history, example.metadata) for example in kept] == [
        ("b", "pear", talk[:2], {"shop": "1"}),
        ("a", "apple", [], {"shop": "2"}),
    ]
    assert (kept[0].licence, kept[0].provenance) == ("own", {"file": "rows.jsonl", "row": "1"})
    assert [(row.reason, row.original) for row in quarantine] == [("roles_out_of_order", rows[1])]
    assert quarantine[0].detail.startswith("jsonl:rows.jsonl, row 2: messages[0]: assistant at the beginning")
    assert read_steps(tmp_path / "out")[0].fixed == {"unanswered_end_left_out": 1}
    assert built.metadata["sources"][0]["taken"] == 3


def test_conversations_are_the_same_from_json_lines_parquet_and_csv(tmp_path):
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"at": "b"}'}}
    talk = [*CHAT, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c", "content": "green"}]
    row = {"id": "x", "messages": [*talk, {"role": "assistant", "content": "pear"}]}
    jsonl(tmp_path / "rows.jsonl", [row])
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    with (tmp_path / "rows.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["id", "messages"], ["x", json.dumps(row["messages"])]])
    found = [
        run(tmp_path, sources=[{"type": kind, "path": f"rows.{kind}", "layout": "messages", "name": "rows"}])[0][0]
        for kind in ("jsonl", "parquet", "csv")
    ]
    assert {(one.role, one.prompt, one.completion) for one in found} == {("tool", "green", "pear")}
    assert found[0].history[-1]["tool_calls"][0]["function"] == {"name": "look", "arguments": {"at": "b"}}
    assert found[0].history == found[1].history == found[2].history


def test_the_answers_of_one_conversation_carry_its_id(tmp_path):
    jsonl(tmp_path / "rows.jsonl", [{"id": "x", "messages": [*CHAT, {"role": "assistant", "content": "pear"}]}])
    kept, _, built = run(tmp_path, sources=source(layout="messages", turns="all"))
    assert ids(kept) == ["x:1", "x:2"]
    assert {example.metadata["conversation"] for example in kept} == {"x"}
    assert [example.provenance["answer"] for example in kept] == ["1", "2"]
    assert (built.metadata["sources"][0]["taken"], built.metadata["sources"][0]["examples"]) == (1, 2)


def test_rows_in_a_training_format_are_refused_with_what_to_write(tmp_path):
    jsonl(tmp_path / "rows.jsonl", ["broken", {"dialogue": CHAT}])
    wanted = (
        r"dataset\.sources\[0\].*row 2 has the columns 'dialogue'; write layout: messages and columns: \{messages: dialogue\}, or templates"
    )
    with pytest.raises(UnstatedLayout, match=wanted):
        run(tmp_path)
    kept, _, _ = run(tmp_path, sources=source(prompt="{{ dialogue[0].content }}", completion="{{ dialogue[1].content }}"))
    assert [example.prompt for example in kept] == ["a"]


def test_a_sheet_and_a_file_of_several_are_in_the_provenance(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        jsonl(tmp_path / "in" / f"{name}.jsonl", [{"prompt": name, "completion": "apple"}])
    book = Workbook()
    book.active.title = "fruit"
    for row in (["prompt", "completion"], ["x", "apple"]):
        book.active.append(row)
    book.save(tmp_path / "rows.xlsx")
    kept, _, _ = run(tmp_path, sources=[{"type": "jsonl", "path": "in"}, {"type": "excel", "path": "rows.xlsx"}])
    assert [example.provenance for example in kept] == [
        {"file": "a.jsonl", "row": "1"},
        {"file": "b.jsonl", "row": "1"},
        {"file": "rows.xlsx", "sheet": "fruit", "row": "2"},
    ]


def test_documents_lie_beside_the_examples_and_never_among_them(tmp_path):
    jsonl(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "apple"}])
    (tmp_path / "handbook.md").write_text("# Fruit\n\nApples are red.\n", encoding="utf-8")
    kept, quarantine, built = run(tmp_path, documents=[{"path": "handbook.md", "licence": "own"}])
    assert (len(kept), quarantine) == (1, [])
    assert [(chunk.heading, chunk.text) for chunk in read_chunks(tmp_path / "out")] == [("Fruit", "Apples are red.")]
    assert built.metadata["documents"] == built.metadata["document_chunks"] == 1
    assert read_steps(tmp_path / "out")[0].notes["documents"][0]["licence"] == "own"
    before = gather(use_case(tmp_path, documents=[{"path": "handbook.md"}])).what()
    (tmp_path / "handbook.md").write_text("# Fruit\n\nApples are green.\n", encoding="utf-8")
    assert gather(use_case(tmp_path, documents=[{"path": "handbook.md"}])).what() != before
