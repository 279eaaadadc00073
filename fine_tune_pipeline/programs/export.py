"""Step 8 as a program: what was trained, as files for others: the adapter, one merged model, a GGUF file for llama.cpp."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from fine_tune_pipeline.programs.export_requests import ADAPTER, GGUF, MERGED, ExportRequest, ExportResult, GgufMade, Merge
from fine_tune_pipeline.programs.gguf_converter import Converter, convert, find_converter
from fine_tune_pipeline.programs.merging import MergeChangesAnswers, write_merged
from fine_tune_pipeline.programs.models import is_peft_folder, peak_memory_bytes, weight_files
from fine_tune_pipeline.programs.quiet import quiet_libraries
from fine_tune_pipeline.programs.reporting import Reporter, end_on_signals, finish, parse, session

EXPORT = "export"

TERMS = ("LICENSE*", "NOTICE*", "USE_POLICY*")
"""What the owner of the base model may want to travel with every copy."""


def run(request: ExportRequest, reporter: Reporter) -> ExportResult:
    """Leave `export/` in `request.output`; it appears when everything in it is whole.

    Raises:
        NoGgufConverter: before anything is loaded.
        NotAnAdapter, AdapterMismatch, MergeNotFinite, NothingToCompare, GgufConversionFailed: it cannot be brought into the form.
    """
    start = time.monotonic()
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    converter = find_converter(os.environ) if GGUF in request.formats else None
    whole = not is_peft_folder(request.trained)
    merge: Merge | None = None
    gguf: GgufMade | None = None
    refused = ""
    with _appearing(Path(request.output) / EXPORT) as folder:
        if ADAPTER in request.formats and not whole:
            _copy(request.trained, folder / ADAPTER)
        try:
            if {MERGED, GGUF} & {*request.formats}:
                merge = _one_model(request, folder / MERGED, whole=whole, reporter=reporter)
            if converter is not None:
                gguf = _gguf(request, folder, converter=converter, reporter=reporter)
        except MergeChangesAnswers as error:
            merge, refused = error.merge, str(error)
        if MERGED not in request.formats:
            shutil.rmtree(folder / MERGED, ignore_errors=True)
        made = tuple(name for name in request.formats if (folder / name).exists())
        for name in made:
            _copy_terms(request.model, folder / name)
    return ExportResult(
        folder=str(Path(request.output) / EXPORT),
        formats=made,
        whole=whole,
        merge=merge,
        gguf=gguf,
        refused=refused,
        seconds=time.monotonic() - start,
        peak_memory_bytes=peak_memory_bytes(),
    )


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A folder that gets its name when it is whole; what an earlier try has left goes first."""
    partial = target.with_name(f"{target.name}.partial")
    for left_over in (partial, target):
        shutil.rmtree(left_over, ignore_errors=True)
    partial.mkdir()
    yield partial
    os.replace(partial, target)


def _one_model(request: ExportRequest, folder: Path, *, whole: bool, reporter: Reporter) -> Merge | None:
    if whole:
        _copy(request.trained, folder)
        return None
    reporter.log("laying the adapter into the base model, and comparing the answers")
    return write_merged(request, folder)


def _gguf(request: ExportRequest, folder: Path, *, converter: Converter, reporter: Reporter) -> GgufMade:
    reporter.log(f"converting to GGUF with {converter.path}")
    target = folder / GGUF / f"{request.name}-{request.gguf_type}.gguf"
    convert(converter, folder / MERGED, target, type=request.gguf_type)
    return GgufMade(file=str(target.relative_to(folder)), type=request.gguf_type, converter=Path(converter.path).name)


def _copy(source: str, target: Path) -> None:
    """Contents only: weights that a library keeps to their owner get the usual permissions of a new file."""
    weight_files(source)
    shutil.copytree(source, target, copy_function=shutil.copyfile)


def _copy_terms(model: str, folder: Path) -> None:
    for pattern in TERMS:
        for path in Path(model).glob(pattern):
            shutil.copyfile(path, folder / path.name)


def main() -> None:
    """Export as the request file says."""
    request = parse(ExportRequest)
    end_on_signals()
    quiet_libraries()
    with session() as reporter:
        finish(request, run(request, reporter))


if __name__ == "__main__":
    main()
