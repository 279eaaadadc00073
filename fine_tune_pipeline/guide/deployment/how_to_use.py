"""How an exported model is asked, as code to copy: with transformers, with vLLM, with llama.cpp. The prompt is built as in training."""

import json
from dataclasses import dataclass

from fine_tune_pipeline.artifacts.examples import Asked, Passage
from fine_tune_pipeline.pages.document import fenced
from fine_tune_pipeline.programs.hosted.chat_rows import messages
from fine_tune_pipeline.programs.passages import DOCUMENTS, TRAINING, Source
from fine_tune_pipeline.programs.prompts import PLAIN_STOP, all_shots, documents, plain_prompt
from fine_tune_pipeline.programs.requests import PromptFormat, Technique
from fine_tune_pipeline.spec.export import Format

QUESTION = "what a user writes"
PASSAGE = "what was looked up for it"
ANSWERED = "and how that was answered"

VLLM_RANKS = (8, 16, 32, 64, 128, 256)
"""That vLLM makes room for."""

_TRANSFORMERS = "from transformers import AutoModelForCausalLM, AutoTokenizer\n"

_IMPORTED = {"adapter": "from peft import PeftModel\n", "merged": ""}

_LOADED = {
    "adapter": """\
base = {base!r}
tokenizer = AutoTokenizer.from_pretrained({tokenizer})
model = AutoModelForCausalLM.from_pretrained(base{revision}, dtype="auto")
{room}model = PeftModel.from_pretrained(model, {path!r}).eval()
""",
    "merged": """\
tokenizer = AutoTokenizer.from_pretrained({path!r})
model = AutoModelForCausalLM.from_pretrained({path!r}, dtype="auto").eval()
""",
}

_ROOM = """\
rows = max(model.get_input_embeddings().num_embeddings, {rows})  # for the tokens that were added to the base model
model.resize_token_embeddings(rows, mean_resizing=False)
"""

_ANSWERED = """\
ids = tokenizer(text, add_special_tokens=False, split_special_tokens={split}).input_ids
if tokenizer.bos_token_id not in (None, *ids[:1]):
    ids = [tokenizer.bos_token_id, *ids]
asked = torch.tensor([ids])
output = model.generate(input_ids=asked, attention_mask=torch.ones_like(asked), max_new_tokens={tokens}, do_sample=False)
print(tokenizer.decode(output[0, len(ids):], skip_special_tokens=True){cut}.strip())
"""


@dataclass(frozen=True)
class Usage:
    """What the code depends on.

    `base` is a repository of the hub or, where the base model came from elsewhere, a path to be replaced; `paths` are the folders of the
    formats, seen from the card; `gguf` is the file's name. `looked_up` is what stands before the question, if the model was trained so.
    """

    name: str
    base: str
    revision: str | None
    technique: Technique
    format: PromptFormat
    max_new_tokens: int
    paths: dict[Format, str]
    gguf: str
    looked_up: Source | None = None


def how_to_use(usage: Usage) -> str:
    """Markdown with a block of code for each way to run each format."""
    parts = [part for name in usage.paths for part in _PARTS[name](usage)]
    return "\n".join(["## How to use", "", *parts])


def _adapter(usage: Usage) -> list[str]:
    where = "" if usage.revision else f"; `{usage.base}` stands for a folder whose weights have the SHA-256 above"
    said = f"The adapter beside its base model, with transformers and peft{where}:"
    return [said, "", fenced(_python(usage, "adapter"), "python"), *_adapter_by_vllm(usage)]


def _adapter_by_vllm(usage: Usage) -> list[str]:
    if usage.technique.use_dora:
        return ["vLLM serves no DoRA adapters: give it the merged model.", ""]
    if usage.technique.added_tokens:
        return ["vLLM serves no adapters with rows of added tokens: give it the merged model.", ""]
    rank = next((rank for rank in VLLM_RANKS if rank >= usage.technique.rank), usage.technique.rank)
    options = f"--enable-lora --max-lora-rank {rank} --lora-modules {usage.name}={usage.paths['adapter']}"
    served = f"vllm serve {usage.base} {options}\n"
    return ["With vLLM:", "", fenced(served + _curl(usage, port=8000), "sh")]


def _merged(usage: Usage) -> list[str]:
    served = f"vllm serve {usage.paths['merged']} --served-model-name {usage.name}\n"
    return [
        "The merged model, with transformers:",
        "",
        fenced(_python(usage, "merged"), "python"),
        "With vLLM:",
        "",
        fenced(served + _curl(usage, port=8000), "sh"),
    ]


def _gguf(usage: Usage) -> list[str]:
    served = f"llama-server --model {usage.paths['gguf']}/{usage.gguf} --alias {usage.name} --port 8080\n"
    return ["The GGUF file, with llama.cpp:", "", fenced(served + _curl(usage, port=8080), "sh")]


_PARTS = {"adapter": _adapter, "merged": _merged, "gguf": _gguf}


def _python(usage: Usage, name: Format) -> str:
    revision = f", revision={usage.revision!r}" if usage.revision else ""
    added = usage.technique.added_tokens
    loaded = _LOADED[name].format(
        path=usage.paths[name],
        base=usage.base,
        revision=revision,
        tokenizer=repr(usage.paths[name]) if added else f"base{revision}",
        room=_ROOM.format(rows=max(added) + 1) if added else "",
    )
    plain = usage.format.style == "plain"
    asked = f"question = {QUESTION!r}\n" + (_FOUND[usage.looked_up] if usage.looked_up else "")
    text = _text(Asked("{question}", context=_PASSAGES[usage.looked_up] if usage.looked_up else ()), plain=plain)
    cut = f".split({PLAIN_STOP!r})[0]" if plain else ""
    answered = _ANSWERED.format(split=plain, tokens=usage.max_new_tokens, cut=cut)
    return f"import torch\n{_IMPORTED[name]}{_TRANSFORMERS}\n{loaded}\n{asked}{text}{answered}"


def _text(asked: Asked, *, plain: bool) -> str:
    """Code that makes the text before the answer: its f-strings are our own template, whose braces are only those of the variables."""
    if plain:
        return f"text = f{plain_prompt(asked)!r}\n"
    turns = "".join(f'{{"role": "{role}", "content": {content}}}, ' for role, content in _turns(asked))
    return f"turns = [{turns.removesuffix(', ')}]\n{_RENDERED}"


def _turns(asked: Asked) -> list[tuple[str, str]]:
    """Role and content, as code, of each turn."""
    shots = [(role, f"f{text!r}") for shot in all_shots(asked) for role, text in (("user", shot.prompt), ("assistant", shot.completion))]
    context = documents(asked)
    return [*shots, ("user", f"f{context + asked.prompt!r}" if context else "question")]


_RENDERED = "text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=False)\n"

_PASSAGES: dict[Source, list[Passage]] = {
    DOCUMENTS: [{"text": "{passage}"}],
    TRAINING: [{"prompt": "{like}", "completion": "{answered}"}],
}
"""One; further ones stand before it alike, the nearest last."""

_FOUND: dict[Source, str] = {
    DOCUMENTS: f"passage = {PASSAGE!r}\n",
    TRAINING: f"like, answered = {PASSAGE!r}, {ANSWERED!r}\n",
}


def _curl(usage: Usage, *, port: int) -> str:
    spoken: dict[Source, list[Passage]] = {DOCUMENTS: [{"text": PASSAGE}], TRAINING: [{"prompt": PASSAGE, "completion": ANSWERED}]}
    asked = Asked(QUESTION, context=spoken[usage.looked_up] if usage.looked_up else ())
    body: dict[str, object] = {"model": usage.name, "max_tokens": usage.max_new_tokens, "temperature": 0}
    if usage.format.style == "plain":
        path, body = "completions", {**body, "prompt": plain_prompt(asked), "stop": [PLAIN_STOP]}
    else:
        path, body = "chat/completions", {**body, "messages": messages(asked, format=usage.format)}
    return f"curl http://localhost:{port}/v1/{path} -H 'Content-Type: application/json' -d '{json.dumps(body)}'\n"
