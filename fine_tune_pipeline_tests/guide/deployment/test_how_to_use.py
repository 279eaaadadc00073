"""The code of an export's card, where tokens were added to the base model, or the model was trained with what is looked up."""

import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.guide.deployment.how_to_use import ANSWERED, PASSAGE, QUESTION, Usage, how_to_use
from fine_tune_pipeline.programs import train
from fine_tune_pipeline.programs.decoding import generate_batch
from fine_tune_pipeline.programs.hosted.chat_rows import messages
from fine_tune_pipeline.programs.models import load_model, load_tokenizer
from fine_tune_pipeline.programs.passages import DOCUMENTS, TRAINING, Source
from fine_tune_pipeline.programs.prompts import encode, plain_prompt
from fine_tune_pipeline.programs.requests import PromptFormat, Technique
from fine_tune_pipeline.spec.export import Format
from fine_tune_pipeline_tests.extended import TAGGED, extended
from fine_tune_pipeline_tests.small_training import Recorder, train_request, write_rows


def test_beside_the_model_of_its_publisher_the_adapter_brings_its_tokens_along(tmp_path: Path, capsys):
    model = extended(tmp_path / "base", tied=False)
    technique = Technique(type="lora", rank=4, added_tokens=tuple(sorted(model.tokens.values())))
    rows = write_rows(tmp_path / "rows.jsonl", TAGGED)
    request = train_request(tmp_path / "output", model=Path(model.model), train=rows, technique=technique, learning_rate=3e-2, epochs=12.0)
    adapter = train.run(request, Recorder()).adapter
    usage = Usage(
        name="triage",
        base=str(tmp_path / "base" / "base"),
        revision=None,
        technique=technique,
        format=PromptFormat(),
        max_new_tokens=12,
        paths={"adapter": adapter},
        gguf="",
    )
    text = how_to_use(usage)
    assert "vLLM serves no adapters with rows of added tokens: give it the merged model." in text
    [code] = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    question = TAGGED[0][1]
    script = tmp_path / "use.py"
    script.write_text(code.replace(QUESTION, question), encoding="utf-8")
    runpy.run_path(str(script))
    tokenizer = load_tokenizer(model.model)
    prompt = encode(question, None, tokenizer=tokenizer, format=PromptFormat()).prompt_ids
    tuned = load_model(model.model, adapter=adapter)
    [wanted] = generate_batch(tuned, tokenizer, [prompt], format=PromptFormat(), max_new_tokens=12)
    assert capsys.readouterr().out.strip() == wanted.text
    assert wanted.text.startswith("<intent>")


FOUND: dict[Source, list[dict[str, str]]] = {
    DOCUMENTS: [{"text": PASSAGE}],
    TRAINING: [{"prompt": PASSAGE, "completion": ANSWERED}],
}


@pytest.mark.parametrize("style", ["plain", "chat"])
@pytest.mark.parametrize("source", [DOCUMENTS, TRAINING])
def test_where_passages_are_looked_up_the_code_writes_them_as_training_did(source: Source, style: str):
    format = PromptFormat.model_validate({"style": style})
    paths: dict[Format, str] = {"merged": "merged"}
    text = how_to_use(Usage("triage", "base", None, Technique(type="lora"), format, 12, paths, gguf="", looked_up=source))
    [code] = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    made = code[code.index("question =") : code.index("ids =")]
    rendered: list[list[dict[str, str]]] = []
    names: dict[str, Any] = {"tokenizer": SimpleNamespace(apply_chat_template=lambda turns, **_: rendered.append(turns))}
    exec(made, names)
    asked = Asked(QUESTION, context=FOUND[source])
    assert (rendered, names["text"]) == (([], plain_prompt(asked)) if style == "plain" else ([messages(asked, format=format)], None))
    body = json.loads(re.findall(r"-d '(.*)'", text)[0])
    assert body.get("prompt", plain_prompt(asked)) == plain_prompt(asked)
    assert body.get("messages", messages(asked, format=format)) == messages(asked, format=format)
