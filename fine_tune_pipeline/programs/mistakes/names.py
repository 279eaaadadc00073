"""The classic mistakes of fine-tuning that preflight looks for, by their ids. No torch here: the guide reads it too."""

MISTAKES = {
    "unknown_columns": "a row lacks a column that training reads, or has one that nothing reads",
    "duplicate_ids": "an id stands twice, within a part or in two parts",
    "wrong_tokenizer": "the tokenizer is that of another model: its tokens have no place there, or another meaning",
    "pad_equals_eos": "the pad token is the end token, so the end is masked out together with the padding",
    "chat_template": "the chat template is missing, or a row renders differently in training and in serving",
    "truncation_share": "more rows than allowed are longer than max_length",
    "beyond_context": "a row is longer than the model can look back on",
    "empty_label_mask": "a row has nothing to learn from",
    "prompt_tokens_in_loss": "tokens of the prompt, or padding, count in the loss",
    "doubled_bos": "a row begins with two begin tokens, or its answer begins with one",
    "eos_never_learned": "a row does not teach the end token",
    "generation_never_stops": "the end token that the rows teach does not end an answer in serving",
    "target_modules_match_nothing": "a target module of the technique is nowhere in the model, or nothing of it learns",
    "frozen_experts": "experts of a mixture stay as they are while the rest learns",
    "dtype_overflow": "numbers in the model overflow in the planned number format",
    "gradient_accumulation": "the gradient of a step in micro-batches is not that of the whole batch",
    "checkpoint_not_resumable": "a training that goes on from a checkpoint does not reach what it would have reached",
    "adapter_not_loading": "what was trained does not load into the served base model, or answers otherwise there",
    "merge_changes_answers": "the answers change when the adapter is merged into the base model",
}
"""id -> the mistake. Stable: they are names in reports, in the UI and in the documentation."""
