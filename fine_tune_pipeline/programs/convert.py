"""Turn a GGUF file into a folder of safetensors, config and tokenizer, once; from then on a load takes a second instead of a minute."""

import functools
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from fine_tune_pipeline.programs.models import refuse_incomplete, weights_sha256
from fine_tune_pipeline.programs.quiet import quiet_libraries
from fine_tune_pipeline.programs.reporting import Reporter, finish, parse, session
from fine_tune_pipeline.programs.requests import ConvertRequest, ConvertResult

MAGIC = b"GGUF"

STORED = torch.float32
"""Of the weights on disk. Values unpacked from a quantized file fit into float32 exactly; of Gemma 3 270M's only 17 % fit into bfloat16.
Stored so (0.5 instead of 1.1 GB), 0.7 % of next tokens change (mean KL 5.5e-5 nats) and a load takes three times as long (0.42 against
0.13 CPU seconds): float32 is mapped into memory as it lies, and shared by all programs that use the model at once."""


class _PlainReader(gguf.GGUFReader):
    """gguf's reader on a plain array. It makes 5 million slices of its memory map, and each is a `numpy.memmap`, which takes ten times as
    long to make as an array."""

    @property
    def data(self) -> np.ndarray:
        return self._plain

    @data.setter
    def data(self, mapped: np.memmap) -> None:
        self._plain = np.asarray(mapped)


class NotGguf(ValueError):
    """The file is missing or is not a GGUF file."""


class UnsupportedGguf(ValueError):
    """A GGUF file that transformers cannot read: of an unknown architecture, or broken off."""


def run(request: ConvertRequest, reporter: Reporter) -> ConvertResult:
    """Convert `request.gguf` into `<output>/model`; the folder appears only when it is whole.

    Raises:
        NotGguf, UnsupportedGguf, IncompleteWeights: the file cannot be converted.
    """
    start = time.monotonic()
    source = Path(request.gguf)
    _refuse_other_files(source)
    target = Path(request.output) / "model"
    partial = target.with_name("model.partial")
    for left_over in (partial, target):
        if left_over.exists():
            shutil.rmtree(left_over)
    reporter.progress(0, 3, "convert")
    with _parsed_once():
        config = _config(source)
        reporter.progress(1, 3, "convert")
        model = _dense(source, config=config)
        model.save_pretrained(partial)
        reporter.progress(2, 3, "convert")
        # Not AutoTokenizer, which would ask for the config once more; the tokenizer.json comes out byte for byte the same.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(source.parent), gguf_file=source.name, local_files_only=True)
        tokenizer.save_pretrained(partial)
    os.replace(partial, target)
    reporter.progress(3, 3, "convert")
    return ConvertResult(
        model=str(target),
        weights_sha256=weights_sha256(target),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        seconds=time.monotonic() - start,
    )


@contextmanager
def _parsed_once() -> Iterator[None]:
    """transformers parses the file for the config, for the weights and for the tokenizer; of a vocabulary of 262,144 tokens each takes
    six seconds. In here all get what the first has read."""
    parse = gguf.GGUFReader
    gguf.GGUFReader = functools.cache(_PlainReader)
    try:
        yield
    finally:
        gguf.GGUFReader = parse


def _refuse_other_files(path: Path) -> None:
    if not path.is_file():
        raise NotGguf(f"{path}: no such file; want a .gguf file")
    with path.open("rb") as file:
        begin = file.read(len(MAGIC))
    if begin != MAGIC:
        raise NotGguf(f"{path}: begins with {begin!r}, want {MAGIC!r}; it is no GGUF file, or its download broke off")


def _config(source: Path) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(str(source.parent), gguf_file=source.name, local_files_only=True)
    except (ValueError, KeyError) as error:
        raise UnsupportedGguf(
            f"{source}: transformers cannot read this GGUF file ({error}): it is incomplete, or of an architecture that it does not know; "
            "fetch it again, or use the model's safetensors"
        ) from error


def _dense(source: Path, *, config: PreTrainedConfig) -> PreTrainedModel:
    """The model with plain weights. A model loaded from GGUF refuses to be saved, so its weights move into one built from the config."""
    loaded, loading = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
        str(source.parent),
        gguf_file=source.name,
        config=config,
        dtype=STORED,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    refuse_incomplete(loading, source=source)
    # Loading marks the config as quantized; a folder of plain weights must not be.
    values = {
        name: value
        for name, value in config.to_dict().items()
        if name not in ("quantization_config", "_name_or_path", "_model_name_or_path")
    }
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(type(config).from_dict(values), dtype=STORED)
    plain.load_state_dict(loaded.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = loaded.generation_config
    return plain.eval()


def main() -> None:
    """Convert as the request file says."""
    quiet_libraries()
    request = parse(ConvertRequest)
    with session() as reporter:
        finish(request, run(request, reporter))


if __name__ == "__main__":
    main()
