"""Settings of training, by the names of transformers' ``TrainingArguments``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from vedcore.config import Config
from vedcore.errors import ConfigSchemaError

__all__ = ["LoraSettings", "TrainingConfig"]

Count = Annotated[int, Field(ge=1, le=1 << 40)]
"""Steps or rows."""
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Part = Literal["encoder", "projector", "decoder"]


def tuple_of(value: object) -> object:
    """A name, or a list of them, as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


class LoraSettings(Config):
    """Settings of low-rank adapters, by the names of PEFT's ``LoraConfig``."""

    r: Annotated[int, Field(ge=1, le=1 << 16)] = 16
    """Rank of the adapters."""
    lora_alpha: Positive = 32.0
    """Scale of the adapters, times their rank."""
    lora_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Dropout of their inputs, in training."""
    target_modules: tuple[str, ...] = (
        "attention.query",
        "attention.key",
        "attention.value",
        "attention.output",
        "attn.qkv",
        "attn.proj",
    )
    """Ends of the names of layers that are adapted: by default those of attention, in decoders and timm's encoders."""

    @field_validator("target_modules", mode="before")
    @classmethod
    def _as_tuple(cls, value: object) -> object:
        return tuple_of(value)


class TrainingConfig(Config):
    """Settings of a training run; ``train.`` stands before their names in files and in the shell."""

    num_train_epochs: Positive = 3.0
    """Passes over the data; a part of one counts too. ``max_steps`` goes before it."""
    max_steps: Count | None = None
    """Optimizer steps; None counts by epochs."""
    per_device_train_batch_size: Count = 8
    """Rows that a process trains on at a time."""
    per_device_eval_batch_size: Count = 16
    """Rows that a process reads at a time in an evaluation."""
    gradient_accumulation_steps: Count = 1
    """Batches to an optimizer step; the loss is that of their tokens together."""
    learning_rate: Positive = 5e-5
    """The largest rate."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt", "polynomial"] = (
        "linear"
    )
    """How the rate falls after the warmup."""
    warmup_ratio: Share = 0.0
    """Share of the steps in which the rate rises from 0; ``warmup_steps`` goes before it."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps in which the rate rises from 0."""
    weight_decay: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.01
    """Of matrices; biases, norms and other vectors do not decay."""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Factor of the rate from each layer of the encoder and of the decoder to the one before it."""
    adam_beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Of AdamW."""
    adam_beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    """Of AdamW."""
    adam_epsilon: Positive = 1e-8
    """Of AdamW."""
    max_grad_norm: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 1.0
    """Norm to which gradients are cut; 0 leaves them."""
    label_smoothing_factor: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the target that the loss spreads over the vocabulary."""
    freeze: tuple[Part, ...] = ()
    """Parts that are not trained."""
    unfreeze_at: dict[Part, Count] = Field(default_factory=dict)
    """Frozen parts to the optimizer step from which on they are trained."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    bf16: bool = False
    """Compute in bfloat16, with parameters in float32."""
    fp16: bool = False
    """Compute in float16, with parameters in float32; needs a GPU."""
    optimize: bool = False
    """Let torch compute float32 products of matrices in a faster and less exact way, where the machine has one."""
    ema_decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Share that a running average of the weights keeps at each step; evaluated and saved in place of them."""
    lora: LoraSettings | None = None
    """Train adapters of low rank in place of the weights (extra ``lora``)."""
    eval_steps: Count | None = None
    """Optimizer steps from one evaluation to the next; None evaluates after each epoch, and at the end."""
    eval_rows: Count | None = None
    """Held-back rows that an evaluation reads; None reads all."""
    save_steps: Count | None = None
    """Optimizer steps from one save of ``last`` to the next; None saves after each evaluation."""
    metric_for_best_model: Literal["cer", "wer", "exact_match"] = "cer"
    """By which the best model is chosen, from generated text."""
    early_stopping_patience: Count | None = None
    """Evaluations without a better one after which training ends; None goes on."""
    generation_max_length: Count | None = None
    """Most tokens of a text in an evaluation; None is the model's own limit."""
    generation_num_beams: Count | None = None
    """Beams in an evaluation; None is the model's own."""
    logging_steps: Count = 1
    """Optimizer steps from one line of the log to the next."""
    report_to: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()
    """Trackers of accelerate's beside the log; each a package of that name."""
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 42
    """Of dropout, augmentation and the order of rows."""

    @field_validator("freeze", "report_to", mode="before")
    @classmethod
    def _as_tuple(cls, value: object) -> object:
        return tuple_of(value)

    @field_validator("lora", mode="before")
    @classmethod
    def _as_lora(cls, value: object) -> object:
        return ({} if value else None) if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.bf16 and self.fp16:
            raise ConfigSchemaError("bf16 is set too", field="fp16", hint="set one of the two")
        for part in self.unfreeze_at:
            if part not in self.freeze:
                raise ConfigSchemaError(
                    f"{part} is not frozen", field=f"unfreeze_at.{part}", hint=f"add {part} to freeze, or leave it out"
                )
        if self.lora is not None and self.freeze:
            raise ConfigSchemaError(
                "with adapters all weights are frozen", field="freeze", hint="leave out freeze, or lora"
            )
        return self

    def better(self, new: float, best: float | None) -> bool:
        """Whether an evaluation beats the best one so far."""
        if best is None:
            return True
        return new > best if self.metric_for_best_model == "exact_match" else new < best
