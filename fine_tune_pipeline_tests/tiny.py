"""A tiny random model of a real architecture with a real tokenizer, made in about a second: what the tests train and serve."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

Architecture = Literal["gemma3", "llama", "mixtral", "qwen2_moe"]

TEXTS = (
    "Input: my card was charged twice for one coffee\nOutput: duplicate_charge",
    "Input: I lost my card on the train this morning\nOutput: lost_card",
    "Input: please tell me how to change my address\nOutput: change_address",
    "Input: the transfer to my landlord has not arrived\nOutput: transfer_missing",
    'Input: someone used my account\nOutput: {"intent": "fraud", "urgency": "high"}',
    'Input: where can I see the fees\nOutput: {"intent": "fees", "urgency": "low"}',
    "Choose the intent and the urgency of the customer's message.",
)
"""What the tokenizer is trained on, unless the test brings its own texts."""

VOCABULARY = 600
SLIDING_WINDOW = 16
"""Tokens that a sliding-window layer sees: shorter than test prompts, so that the window matters."""

HIDDEN = 64

EXPERTS = 4
"""Of a layer, in the architectures that have them."""

PAD, EOS, BOS = 0, 1, 2
"""Token ids."""

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>assistant\n' }}{% endif %}"
)


def tiny_model(
    folder: Path,
    *,
    texts: Sequence[str] = TEXTS,
    chat: bool = False,
    architecture: Architecture = "gemma3",
    seed: int = 0,
    tied: bool = True,
) -> Path:
    """Write model.safetensors, config and tokenizer into `folder`, and return it. Same arguments, same bytes."""
    tokenizer = tiny_tokenizer(texts, chat=chat)
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _build(architecture, tokenizer=tokenizer, tied=tied)
        # Far above the usual 0.02: the output head is tied to this matrix and frozen under LoRA, so it must be able to be sure of a token.
        torch.nn.init.normal_(model.get_parameter("model.embed_tokens.weight"), std=0.2)
        if not tied:
            torch.nn.init.normal_(model.get_parameter("lm_head.weight"), std=0.2)
    model.save_pretrained(folder)
    return folder


def tiny_tokenizer(texts: Sequence[str] = TEXTS, *, chat: bool = False) -> PreTrainedTokenizerBase:
    """Byte-level BPE over `texts` (any other text works too: every byte is in it), with pad 0, eos 1 and bos 2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<bos>", *(["<start_of_turn>", "<end_of_turn>"] if chat else [])]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        extra_special_tokens=special[3:],
        chat_template=CHAT_TEMPLATE if chat else None,
    )


def _build(architecture: Architecture, *, tokenizer: PreTrainedTokenizerBase, tied: bool) -> PreTrainedModel:
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": tied,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }
    if architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape))
    if architecture == "mixtral":
        return MixtralForCausalLM(MixtralConfig(**shape, num_local_experts=EXPERTS, num_experts_per_tok=2, sliding_window=None))
    if architecture == "qwen2_moe":
        # The first layer without experts, the second with shared ones beside the routed.
        experts = {"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": HIDDEN // 2, "mlp_only_layers": [0]}
        return Qwen2MoeForCausalLM(Qwen2MoeConfig(**shape, **experts, shared_expert_intermediate_size=HIDDEN, decoder_sparse_step=1))
    layers = ["sliding_attention", "full_attention"]
    return Gemma3ForCausalLM(Gemma3TextConfig(**shape, layer_types=layers, sliding_window=SLIDING_WINDOW, query_pre_attn_scalar=16))


def random_adapter(folder: Path, *, base: Path, seed: int = 0) -> Path:
    """Write an untrained LoRA adapter for the model in `base` into `folder`, strong enough to change every answer; return `folder`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(str(base), local_files_only=True)
        tuned = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.5)
    tuned.save_pretrained(str(folder))
    return folder
