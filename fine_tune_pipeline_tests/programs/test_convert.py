from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from fine_tune_pipeline.programs.convert import NotGguf, UnsupportedGguf, run
from fine_tune_pipeline.programs.models import IncompleteWeights, load_model, load_tokenizer, weights_sha256
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.requests import ConvertRequest, ConvertResult
from fine_tune_pipeline_tests.programs.launching import launch

HIDDEN, LAYERS, HEADS, WIDTH, FEED_FORWARD, CONTEXT, WINDOW = 64, 6, 2, 32, 96, 256, 512

PIECES = ["\u2581", *'abcdeilorst{}:"?', "ca", "rd", "card", "\u2581card", "lo", "st", "lost", "\u2581lost", "\n", "\n\n"]
TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
"""Of Gemma 3's layers: transformers' names, llama.cpp's names."""


def source_model() -> Gemma3ForCausalLM:
    config = Gemma3TextConfig(
        vocab_size=len(TOKENS),
        hidden_size=HIDDEN,
        intermediate_size=FEED_FORWARD,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=1,
        head_dim=WIDTH,
        max_position_embeddings=CONTEXT,
        sliding_window=WINDOW,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Gemma3ForCausalLM(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def gguf_name(name: str) -> str:
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if name in whole:
        return whole[name]
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.weight"


def write_gguf(path: Path, model: Gemma3ForCausalLM, *, quantized: bool = False, leave_out: str = "", architecture: str = "gemma3") -> Path:
    """As llama.cpp writes it: norms plus one, sentence pieces without merges; `quantized` stores matrices as Q8_0."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_key_length(WIDTH)
    writer.add_value_length(WIDTH)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_sliding_window(WINDOW)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.0] * len(TOKENS))
    control, byte, normal, added = 3, 6, 1, 4
    kinds = [control] * 4 + [byte] * 256 + [added if piece.startswith("\n") else normal for piece in PIECES]
    writer.add_token_types(kinds)
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_unk_token_id(3)
    writer.add_add_bos_token(True)
    for name, parameter in model.named_parameters():
        values = parameter.detach().numpy().astype(np.float32)
        if name == leave_out:
            continue
        if values.ndim == 1:
            writer.add_tensor(gguf_name(name), values + 1)
        elif quantized:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(gguf_name(name), gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(gguf_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([[2, 270, 271, 280, 275, 262]])).logits


def test_the_converted_folder_computes_what_the_source_computes(tmp_path: Path):
    source = source_model()
    request = ConvertRequest(output=str(tmp_path), gguf=str(write_gguf(tmp_path / "tiny.gguf", source)))
    result = run(request, Reporter(None))
    converted = load_model(result.model)
    assert torch.allclose(logits(converted), logits(source), atol=1e-4)
    assert result.parameters == sum(parameter.numel() for parameter in source.parameters())
    assert result.weights_sha256 == weights_sha256(result.model)
    assert getattr(converted.config, "quantization_config", None) is None
    assert converted.config.layer_types == source.config.layer_types
    assert converted.generation_config.eos_token_id == 1


def test_quantized_weights_are_unpacked_exactly(tmp_path: Path):
    source = source_model()
    request = ConvertRequest(output=str(tmp_path), gguf=str(write_gguf(tmp_path / "tiny.gguf", source, quantized=True)))
    weights = dict(load_model(run(request, Reporter(None)).model).named_parameters())
    for name, parameter in source.named_parameters():
        if parameter.ndim == 2:
            packed = gguf.quantize(parameter.detach().numpy(), gguf.GGMLQuantizationType.Q8_0).reshape(-1, 34)
            # Q8_0: a float16 scale, then 32 signed bytes.
            scale = packed[:, :2].copy().view(np.float16).astype(np.float32)
            expected = (scale * packed[:, 2:].copy().view(np.int8)).reshape(parameter.shape)
            np.testing.assert_array_equal(weights[name].detach().numpy(), expected)


def test_the_converted_tokenizer_joins_pieces_and_gives_every_text_back(tmp_path: Path):
    request = ConvertRequest(output=str(tmp_path), gguf=str(write_gguf(tmp_path / "tiny.gguf", source_model())))
    tokenizer = load_tokenizer(run(request, Reporter(None)).model)
    ids = tokenizer("lost card\n\n", add_special_tokens=False)["input_ids"]
    assert [TOKENS[index] for index in ids] == ["lost", "\u2581card", "\n\n"]
    for text in ("lost card?", 'a {"b": "c"}', "naïve 日本 🙂", "  two  spaces "):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, 1, 2)


def test_the_program_converts_without_a_network_and_replaces_what_a_broken_run_left(tmp_path: Path):
    left_over = tmp_path / "model.partial"
    left_over.mkdir()
    (left_over / "old.safetensors").write_bytes(b"half")
    source = source_model()
    result = ConvertResult.read(launch(ConvertRequest(output=str(tmp_path), gguf=str(write_gguf(tmp_path / "tiny.gguf", source)))))
    assert not left_over.exists()
    assert sorted(path.name for path in Path(result.model).glob("*.safetensors")) == ["model.safetensors"]
    assert torch.allclose(logits(load_model(result.model)), logits(source), atol=1e-4)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path):
    other = tmp_path / "model.gguf"
    other.write_bytes(b"PK\x03\x04 a zip")
    with pytest.raises(NotGguf, match="begins with"):
        run(ConvertRequest(output=str(tmp_path), gguf=str(other)), Reporter(None))
    with pytest.raises(NotGguf, match="no such file"):
        run(ConvertRequest(output=str(tmp_path), gguf=str(tmp_path / "missing.gguf")), Reporter(None))


def test_an_unknown_architecture_is_refused_and_leaves_nothing(tmp_path: Path):
    path = write_gguf(tmp_path / "tiny.gguf", source_model(), architecture="nonesuch")
    with pytest.raises(UnsupportedGguf, match="nonesuch"):
        run(ConvertRequest(output=str(tmp_path), gguf=str(path)), Reporter(None))
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_file_whose_download_broke_off_is_refused(tmp_path: Path):
    path = write_gguf(tmp_path / "tiny.gguf", source_model())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnsupportedGguf, match="incomplete"):
        run(ConvertRequest(output=str(tmp_path), gguf=str(path)), Reporter(None))
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_file_without_some_weights_is_refused_not_filled_with_random_numbers(tmp_path: Path):
    lost = "model.layers.3.mlp.up_proj.weight"
    path = write_gguf(tmp_path / "tiny.gguf", source_model(), leave_out=lost)
    with pytest.raises(IncompleteWeights, match=lost):
        run(ConvertRequest(output=str(tmp_path), gguf=str(path)), Reporter(None))
    assert sorted(tmp_path.iterdir()) == [path]


def test_the_file_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    parsed: list[str] = []
    reader, begin = gguf.GGUFReader, gguf.GGUFReader.__init__

    def counted(self: gguf.GGUFReader, path: str) -> None:
        parsed.append(path)
        begin(self, path)

    monkeypatch.setattr(reader, "__init__", counted)
    run(ConvertRequest(output=str(tmp_path), gguf=str(write_gguf(tmp_path / "tiny.gguf", source_model()))), Reporter(None))
    assert parsed == [str(tmp_path / "tiny.gguf")]
    assert gguf.GGUFReader is reader
