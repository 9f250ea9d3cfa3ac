"""PEFT on a model: its class for SEQ_2_SEQ_LM, adapters alone and merged, under Trainer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as hf

import vedcore
from tests.trainers.tiny import IMAGES, arguments, checkpoint, losses, rows

NAMES = ["query", "value", "qkv"]
LABELS = torch.stack([row["labels"] for row in rows()])


@pytest.fixture(scope="module", params=["bert", "gpt2"])
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp(request.param), request.param)


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("task_type", [None, "SEQ_2_SEQ_LM"])
def test_adapters_train_and_generate(folder: Path, tmp_path: Path, use_dora: bool, task_type: str | None) -> None:
    model = vedcore.load(folder)
    plain = model.generate(IMAGES, max_new_tokens=8)
    config = peft.LoraConfig(task_type=task_type, target_modules=NAMES, r=4, use_dora=use_dora, init_lora_weights=False)
    adapted: Any = peft.get_peft_model(copy.deepcopy(model), config)
    out = adapted(pixel_values=IMAGES, labels=LABELS, output_hidden_states=True, return_dict=True)
    out.loss.backward()
    with_gradients = {name.split(".")[-3] for name, p in adapted.named_parameters() if p.grad is not None}
    assert with_gradients >= {"lora_A", "lora_B"}
    assert len(out.decoder_hidden_states) == 3
    adapted.eval()
    ids = adapted.generate(pixel_values=IMAGES, max_new_tokens=8)
    assert not torch.equal(ids, plain)
    for options in ({"use_cache": False}, {"labels": LABELS, "synced_gpus": False}):
        assert torch.equal(adapted.generate(pixel_values=IMAGES, max_new_tokens=8, **options), ids)
    beams = adapted.generate(pixel_values=IMAGES, max_new_tokens=8, num_beams=3)

    adapted.save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    back: Any = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path)
    assert type(back) is type(adapted)
    assert torch.equal(back.generate(pixel_values=IMAGES, max_new_tokens=8), ids)
    merged = adapted.merge_and_unload()
    assert type(merged) is type(model)
    assert torch.equal(merged.generate(IMAGES, max_new_tokens=8, num_beams=3), beams)
    merged.save_pretrained(tmp_path / "merged")
    assert torch.equal(vedcore.load(tmp_path / "merged").generate(IMAGES, max_new_tokens=8), ids)


def test_a_step_as_transformers_prepares_it(folder: Path) -> None:
    model = vedcore.load(folder)
    config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=NAMES, init_lora_weights=False)
    adapted: Any = peft.get_peft_model(model, config).eval()
    ids, encoded = model.generate(IMAGES, max_new_tokens=4, eos_token_id=None), model.encode(IMAGES)
    whole = adapted(pixel_values=IMAGES, decoder_input_ids=ids).logits
    step = adapted.prepare_inputs_for_generation(ids[:, :3], encoder_outputs=encoded, use_cache=True)
    first = adapted(**step)
    step = adapted.prepare_inputs_for_generation(ids, past_key_values=first.past_key_values, use_cache=True)
    assert step["decoder_input_ids"].shape[1] == 2
    logits = torch.cat([first.logits, adapted(**step).logits], 1)
    torch.testing.assert_close(logits, whole, atol=1e-4, rtol=1e-4)


def test_under_seq2seq_trainer(folder: Path, tmp_path: Path) -> None:
    model = vedcore.load(folder)
    config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=NAMES, r=4)
    adapted: Any = peft.get_peft_model(model, config)
    frozen = model.get_input_embeddings().weight.clone()
    args = arguments(
        tmp_path,
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
        predict_with_generate=True,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": True},
        learning_rate=1e-2,
        num_train_epochs=4,
    )
    trainer = hf.Seq2SeqTrainer(
        model=adapted, args=args, train_dataset=rows(), eval_dataset=rows(8), processing_class=model.processor
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert losses(trainer, "eval_loss")[-1] < before
    assert torch.equal(model.get_input_embeddings().weight, frozen)
    assert (Path(trainer.state.best_model_checkpoint) / "adapter_model.safetensors").exists()
    trainer.train(resume_from_checkpoint=trainer.state.best_model_checkpoint)


def test_unknown_arguments_are_still_refused(folder: Path) -> None:
    model = vedcore.load(folder)
    adapted: Any = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=NAMES))
    for call in (model, adapted):
        with pytest.raises(TypeError, match="'input_ids'"):
            call(pixel_values=IMAGES, labels=LABELS, input_ids=LABELS)
        with pytest.raises(TypeError, match="'colour'"):
            call(pixel_values=IMAGES, labels=LABELS, colour="red")
