"""`fine-tune-pipeline record`: the answers of a model that is to be shut down, as rows to learn from."""

import json
from pathlib import Path

import pytest

from fine_tune_pipeline.artifacts.examples import read_rows
from fine_tune_pipeline.cli import main
from fine_tune_pipeline_tests.hosted.stand_in import KEY, MODEL, VARIABLE, Fault, provider_stand_in

ASKED = "POST /v1/chat/completions$"


def test_answers_are_recorded_once_and_become_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv(VARIABLE, KEY)
    prompts, answers, system = (tmp_path / name for name in ("prompts.jsonl", "answers.jsonl", "system.txt"))
    prompts.write_text("".join(json.dumps({"prompt": f"question {number}", "channel": "app"}) + "\n" for number in range(4)))
    system.write_text("Be brief.\n")
    with provider_stand_in(answer=lambda request: "word " * (9 if "question 3" in str(request) else 2)) as provider:
        command = ["record", str(prompts), str(answers), "--model", MODEL, "--base-url", provider.url, "--key-variable", VARIABLE]
        command += ["--instruction", str(system), "--max-tokens", "5"]
        provider.faults = [Fault(ASKED, 401)]
        assert main(command) == 3
        assert VARIABLE in capsys.readouterr().err
        assert main(command) == 0
        assert "3 answers; 1 were cut" in capsys.readouterr().out
        asked = len(provider.requests(ASKED))
        assert main(command) == 0
        assert len(provider.requests(ASKED)) == asked
        assert provider.requests(ASKED)[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    rows = read_rows(answers)
    assert [(row["id"], row["prompt"], row["completion"], row["channel"]) for row in rows] == [
        (str(number + 1), f"question {number}", "word word", "app") for number in range(3)
    ]


def test_a_file_without_prompts_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv(VARIABLE, KEY)
    (tmp_path / "prompts.jsonl").write_text('{"text": "hello"}\n')
    command = ["record", str(tmp_path / "prompts.jsonl"), str(tmp_path / "answers.jsonl"), "--model", MODEL, "--key-variable", VARIABLE]
    assert main(command) == 1
    assert "prompts.jsonl:1: want prompt as text" in capsys.readouterr().err
