import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from fine_tune_pipeline.artifacts.fingerprint import file_sha256
from fine_tune_pipeline.guide.base_model.gguf_file import NoGgufFile, OtherGgufFile, UnreadableGguf, read_gguf, read_header

HIDDEN, LAYERS, WORDS = 8, 2, 5


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small language model's file, by the package that defines the format."""
    return written(tmp_path / "model.gguf")


def written(path: Path, *, embedding: str = "token_embd.weight", heads: bool = True, experts: int = 0) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(1024)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(16)
    if heads:
        writer.add_head_count(4)
        writer.add_head_count_kv([2] * LAYERS)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(4)
    writer.add_token_list([f"word{number}" for number in range(WORDS)])
    writer.add_token_scores([0.5] * WORDS)
    writer.add_tensor(embedding, np.zeros((WORDS, HIDDEN), dtype=np.float32))
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((HIDDEN, HIDDEN), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_header_says_what_the_formats_own_package_says(file):
    header, reader = read_header(file), GGUFReader(file)
    assert header.shapes == {tensor.name: tuple(map(int, tensor.shape)) for tensor in reader.tensors}
    read = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert header.values == read | {"tokenizer.ggml.tokens": None}


def test_numbers_are_read_from_the_header(file):
    found = read_gguf(file, sha256=file_sha256(file))
    architecture = found.architecture
    assert (architecture.hidden, architecture.layers, architecture.heads, architecture.kv_heads) == (HIDDEN, LAYERS, 4, 2)
    assert (architecture.head_dim, architecture.mlp_width, architecture.vocabulary, architecture.tied) == (2, 16, WORDS, True)
    assert (found.parameters, found.context) == (WORDS * HIDDEN + HIDDEN * HIDDEN, 1024)


def test_the_content_is_the_one_of_a_package_with_the_same_file(file):
    assert read_gguf(file, sha256=file_sha256(file)).hashes() == {"gguf_sha256": file_sha256(file)}


def test_another_file_than_the_pinned_one_is_refused_with_both_hashes(file):
    with pytest.raises(OtherGgufFile, match=rf"its SHA-256 is {file_sha256(file)}, the use case pins {'0' * 64}"):
        read_gguf(file, sha256="0" * 64)


def test_a_file_that_is_not_there_or_something_else_is_named(tmp_path):
    with pytest.raises(NoGgufFile, match=r"none\.gguf: no such file"):
        read_gguf(tmp_path / "none.gguf", sha256="0" * 64)
    (tmp_path / "page.gguf").write_text("<html>")
    with pytest.raises(NoGgufFile, match=r"page\.gguf: begins with b'<htm', want b'GGUF'"):
        read_gguf(tmp_path / "page.gguf", sha256="0" * 64)


@pytest.mark.parametrize("kept_bytes", [8, 30, 200])
def test_a_header_that_breaks_off_is_named(file, kept_bytes):
    file.write_bytes(file.read_bytes()[:kept_bytes])
    with pytest.raises(UnreadableGguf, match="its header breaks off"):
        read_header(file)


def test_a_version_that_is_not_known_is_named(file):
    file.write_bytes(b"GGUF" + struct.pack("<I", 1) + file.read_bytes()[8:])
    with pytest.raises(UnreadableGguf, match="GGUF version 1, want 2 or 3"):
        read_header(file)


def test_a_file_without_the_numbers_of_a_language_model_is_named(tmp_path):
    with pytest.raises(UnreadableGguf, match=r"llama\.attention\.head_count is None, want a whole number"):
        read_gguf(written(tmp_path / "a.gguf", heads=False), sha256=file_sha256(tmp_path / "a.gguf"))
    with pytest.raises(UnreadableGguf, match=r"no tensor token_embd\.weight"):
        read_gguf(written(tmp_path / "b.gguf", embedding="v.patch_embd.weight"), sha256=file_sha256(tmp_path / "b.gguf"))


def test_experts_are_read_from_the_header(tmp_path):
    path = written(tmp_path / "experts.gguf", experts=8)
    architecture = read_gguf(path, sha256=file_sha256(path)).architecture
    assert (architecture.experts, architecture.experts_per_token, architecture.expert_width) == (8, 2, 4)
    one = written(tmp_path / "one.gguf", experts=1)
    with pytest.raises(UnreadableGguf, match="the numbers in its header do not go together"):
        read_gguf(one, sha256=file_sha256(one))
