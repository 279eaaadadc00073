"""What TRL's trainer is told: as little as possible is left to it."""

from trl.trainer.sft_config import SFTConfig

from fine_tune_pipeline.programs.training.recipe import Recipe


class _InParts(SFTConfig):
    """Of a model that no single device has room for."""

    @property
    def place_model_on_device(self) -> bool:
        return False


def trainer_arguments(recipe: Recipe, *, max_steps: int, sharded: bool) -> SFTConfig:
    """A batch is all rows of a step; nothing is saved, validated or reported by the trainer itself.

    Args:
        recipe: what was asked for.
        max_steps: optimizer steps; -1 for the epochs that the recipe says.
        sharded: see `Team`.
    """
    wanted = recipe.hyperparameters
    return (_InParts if sharded else SFTConfig)(
        output_dir=recipe.output,
        num_train_epochs=wanted.epochs,
        max_steps=max_steps,
        per_device_train_batch_size=wanted.effective_batch,
        learning_rate=wanted.learning_rate,
        weight_decay=wanted.weight_decay,
        max_grad_norm=wanted.max_grad_norm,
        optim="adamw_torch_fused",
        seed=wanted.seed,
        activation_checkpointing=recipe.placement.gradient_checkpointing,
        bf16=recipe.placement.dtype == "bfloat16",
        use_cpu=recipe.placement.device == "cpu",
        # Rows come tokenised and checked: nothing is tokenised again, cut or given an end token.
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        # Kept in the configuration of a fully trained model, which would then generate without its cache.
        use_cache=True,
        dataloader_pin_memory=recipe.placement.device != "cpu",
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
