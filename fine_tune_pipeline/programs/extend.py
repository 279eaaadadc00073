"""Add tokens to a base model, once: its tokenizer knows them, and embedding and head have rows for them.

A new row begins as the mean of the rows that the tokenizer's other tokens have, so that an untrained token is neither likely nor far from
all others. transformers would draw it around that mean; here the same input gives the same weights.
"""

import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from fine_tune_pipeline.programs.extend_requests import ExtendRequest, ExtendResult
from fine_tune_pipeline.programs.models import load_model, weight_files
from fine_tune_pipeline.programs.quiet import quiet_libraries
from fine_tune_pipeline.programs.reporting import Reporter, finish, parse, session
from fine_tune_pipeline.programs.requests import Precision
from fine_tune_pipeline.programs.tokenizer_fit import refuse_foreign

ROWS_AT_ONCE = 4096
"""Of a matrix, that are summed in float64: all at once would be twice the matrix."""


SENTENCEPIECE = "tokenizer.model"


class KnownToken(ValueError):
    """A token that should be added is one already."""


class TokenNotKept(ValueError):
    """The tokenizer does not read an added token back as one."""


class CannotExtend(ValueError):
    """The architecture keeps its vocabulary in more places than embedding and head."""


def run(request: ExtendRequest, reporter: Reporter) -> ExtendResult:
    """Write the extended model into `<output>/model`; the folder appears only when it is whole.

    Raises:
        KnownToken, TokenNotKept: the tokenizer is in the way.
        CannotExtend: the architecture is.
        NoWeights, PickledWeights, IncompleteWeights, WrongTokenizer: it is no model that can be trained here.
    """
    source, target = Path(request.model), Path(request.output) / "model"
    partial = target.with_name("model.partial")
    for left_over in (partial, target):
        shutil.rmtree(left_over, ignore_errors=True)
    tokenizer = _tokenizer(source)
    known = sorted(set(tokenizer.get_vocab().values()))
    ids = _added(tokenizer, request.tokens)
    reporter.progress(1, 3, "extend")
    model = load_model(source, dtype=exact_dtype(source))
    assert isinstance(model, PreTrainedModel)
    before = model.num_parameters()
    _make_rows(model, ids=list(ids.values()), known=known)
    reporter.progress(2, 3, "extend")
    _copy_beside(source, partial)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    if (partial / SENTENCEPIECE).exists():
        # llama.cpp's converter takes words from that file, and what was added to them from this one.
        (partial / "added_tokens.json").write_text(json.dumps({**tokenizer.get_added_vocab(), **ids}, ensure_ascii=False), encoding="utf-8")
    _check(_tokenizer(partial), ids)
    os.replace(partial, target)
    reporter.progress(3, 3, "extend")
    rows = model.get_input_embeddings().weight.shape[0]
    return ExtendResult(model=str(target), tokens=ids, rows=rows, added_parameters=model.num_parameters() - before)


def exact_dtype(folder: str | Path) -> Precision:
    """The smallest dtype that holds all numbers of a model folder exactly."""
    kinds = set()
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            kinds |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    return "bfloat16" if kinds == {"BF16"} else "float32"


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    refuse_foreign(tokenizer, folder=folder)
    return tokenizer


def _added(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> dict[str, int]:
    """Add the tokens, and give their ids.

    They are not special: an answer shows them, and a user who types one gets the token.
    """
    vocabulary = tokenizer.get_vocab()
    known = {token: found for token in tokens if (found := _one_token(token, tokenizer, vocabulary)) is not None}
    if known:
        said = ", ".join(f"{token!r} (token {id})" for token, id in known.items())
        raise KnownToken(f"base_model.added_tokens: the tokenizer has {said} already as one token; leave it out, it needs no adding")
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in tokens])
    return {token: id for token in tokens if isinstance(id := tokenizer.convert_tokens_to_ids(token), int)}


def _one_token(token: str, tokenizer: PreTrainedTokenizerBase, vocabulary: Mapping[str, int]) -> int | None:
    """Its id, if it is one already."""
    if token in vocabulary:
        return vocabulary[token]
    ids = tokenizer.encode(token, add_special_tokens=False)
    return ids[0] if len(ids) == 1 and ids[0] != tokenizer.unk_token_id else None


def _make_rows(model: PreTrainedModel, *, ids: Sequence[int], known: Sequence[int]) -> None:
    """Rows for `ids` and for all before them, in embedding and head.

    Raises:
        CannotExtend: the logits do not grow with them.
    """
    before = model.get_input_embeddings().weight.shape[0]
    places = [id for id in known if id < before]
    means = {name: mean_row(tensor, places) for name, tensor in _matrices(model).items()}
    if max(ids) >= before:
        # Its own draw around the mean costs the covariance of all rows, and would not be the same on another machine.
        model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    after = model.get_input_embeddings().weight.shape[0]
    made = sorted({*range(before, after), *ids})
    with torch.no_grad():
        for name, tensor in _matrices(model).items():
            tensor[made] = means[name]
        logits = model(input_ids=torch.tensor([list(ids[:1])]), use_cache=False).logits
    if logits.shape[-1] != after or not bool(torch.isfinite(logits).all()):
        raise CannotExtend(
            f"base_model.added_tokens: {type(model).__name__} gives {logits.shape[-1]} logits for a vocabulary of {after}; take no tokens "
            "that must be added, or another base model"
        )


def _matrices(model: PreTrainedModel) -> dict[str, Tensor]:
    """What has a row, or a number, for every token; a head that is tied to the embedding is in it once."""
    parts: dict[str, nn.Module | None] = {"embedding": model.get_input_embeddings(), "head": model.get_output_embeddings()}
    found = {
        f"{name} {kind}": tensor
        for name, part in parts.items()
        for kind in ("weight", "bias")
        if isinstance(tensor := getattr(part, kind, None), Tensor)
    }
    return {name: tensor for name, tensor in found.items() if name == "embedding weight" or tensor is not found["embedding weight"]}


def mean_row(matrix: Tensor, places: Collection[int]) -> Tensor:
    """The mean of these rows, summed in float64: threads share a sum in another order on every machine."""
    total = torch.zeros(matrix.shape[1:], dtype=torch.float64)
    for part in torch.tensor(list(places)).split(ROWS_AT_ONCE):
        total += matrix.detach()[part].double().sum(0)
    return (total / len(places)).to(matrix.dtype)


def _copy_beside(source: Path, target: Path) -> None:
    """Terms, template and the rest; what belongs to the weights is written anew."""
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file() and not path.name.endswith((".safetensors", ".safetensors.index.json")):
            shutil.copyfile(path, target / path.name)


def _check(tokenizer: PreTrainedTokenizerBase, ids: Mapping[str, int]) -> None:
    for token, id in ids.items():
        for text in (token, f"a {token} b"):
            if id not in (found := tokenizer.encode(text, add_special_tokens=False)):
                pieces = tokenizer.convert_ids_to_tokens(found)
                raise TokenNotKept(
                    f"base_model.added_tokens: {token!r} in {text!r} should be one token, and the tokenizer reads {pieces}; "
                    "write it otherwise"
                )


def main() -> None:
    """Extend as the request file says."""
    quiet_libraries()
    request = parse(ExtendRequest)
    with session() as reporter:
        finish(request, run(request, reporter))


if __name__ == "__main__":
    main()
