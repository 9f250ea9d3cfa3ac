"""transformers' Trainer and Seq2SeqTrainer, called as its tutorials call them, on its model and on ours."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers as hf
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn

import vedcore
from tests.trainers.tiny import EOS, IMAGES, PAD, START, arguments, both, checkpoint, losses, rows
from vedcore.cli.app import group
from vedcore.config import ModelConfig

NAMES = ["bert", "gpt2"]


@pytest.fixture(scope="module", params=NAMES)
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def model() -> Any:
    """A model with dropout and a tokenizer, whose weights are laid out for writing."""
    made = vedcore.compose(
        {"name": "vit_tiny_patch16_224", "num_hidden_layers": 1},
        {"name": "gpt2", "n_layer": 2, "n_embd": 48, "n_head": 2},
        tokenizer="char",
        image_size=16,
        seed=0,
    )
    made.generate(IMAGES[:1], max_new_tokens=2)
    return made


def texts(length: int = 8) -> list[dict[str, Any]]:
    image = Image.effect_noise((40, 40), 90).convert("RGB")
    return [{"image": image, "text": "abc" * (i % 3 + 1)} for i in range(length)]


def compared(folder: Path, tmp_path: Path, **options: Any) -> list[Any]:
    """A trainer of each library after training with the same data and seed."""
    trained = []
    for name, (model, processor) in zip(("theirs", "ours"), both(folder), strict=True):
        trainer = hf.Seq2SeqTrainer(
            model=model,
            args=arguments(tmp_path / name, **options),
            train_dataset=rows(),
            eval_dataset=rows(7),
            processing_class=processor,
            compute_metrics=lambda p: {"sum": int(p.predictions.sum()), "labels": int(p.label_ids.sum())},
        )
        trainer.train()
        trained.append(trainer)
    return trained


def test_seq2seq_trainer_gives_transformers_losses_and_texts(folder: Path, tmp_path: Path) -> None:
    theirs, ours = compared(
        folder,
        tmp_path,
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
        predict_with_generate=True,
        generation_max_length=12,
        generation_num_beams=2,
        weight_decay=0.01,
    )
    assert losses(ours) == pytest.approx(losses(theirs), abs=2e-5)
    assert losses(ours, "eval_loss") == pytest.approx(losses(theirs, "eval_loss"), abs=2e-5)
    for name in ("eval_sum", "eval_labels"):
        assert losses(ours, name) == losses(theirs, name)
    assert ours.state.total_flos > 0
    (a, b) = (trainer.predict(rows(5)) for trainer in (theirs, ours))
    assert a.predictions.shape == b.predictions.shape
    assert np.array_equal(a.label_ids, b.label_ids)


def test_every_checkpoint_opens(folder: Path, tmp_path: Path) -> None:
    _, (model, processor) = both(folder)
    options = {"save_strategy": "epoch", "eval_strategy": "epoch", "load_best_model_at_end": True}
    trainer = hf.Seq2SeqTrainer(
        model=model,
        args=arguments(tmp_path, **options),
        train_dataset=rows(),
        eval_dataset=rows(8),
        processing_class=processor,
    )
    trainer.train()
    for step in (3, 6):
        back = vedcore.load(tmp_path / f"checkpoint-{step}")
        due = next(e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e and e["step"] == step)
        labels = torch.stack([row["labels"] for row in rows(8)])
        found = [back(IMAGES[i : i + 4], labels=labels[i : i + 4]).loss.item() for i in (0, 4)]
        assert np.mean(found) == pytest.approx(due, abs=1e-5)
        assert back.token_ids == model.token_ids
    best = vedcore.load(trainer.state.best_model_checkpoint)
    for ours, found in zip(model.parameters(), best.parameters(), strict=True):
        assert torch.equal(ours, found)
    trainer.save_model(tmp_path / "final")
    trainer.save_model(tmp_path / "final")
    assert CliRunner().invoke(group, ["inspect", "--verify", str(tmp_path / "final")]).exit_code == 0
    assert torch.equal(vedcore.load(tmp_path / "final").generate(IMAGES), model.generate(IMAGES))


def test_weights_saved_over_an_earlier_save_open(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        model.decoder.embedding.weight.mul_(2)
    model.add_tokens(["<a>"])
    hf.Trainer(model=model, args=arguments(tmp_path), processing_class=model.processor).save_model(tmp_path)
    back = vedcore.load(tmp_path)
    assert back.decoder.vocab_size == model.decoder.vocab_size
    assert torch.equal(back.generate(IMAGES, max_new_tokens=5), model.generate(IMAGES, max_new_tokens=5))
    other = vedcore.compose("vit_tiny_patch16_224", "gpt2", tokenizer="char", image_size=16, decoder_n_layer=1)
    other.state_dict()
    other.processor.save_pretrained(tmp_path)  # leaves settings alone that fit their weights
    assert vedcore.load(tmp_path).decoder.vocab_size == model.decoder.vocab_size


def test_training_resumes_in_the_middle(model: Any, tmp_path: Path) -> None:
    whole, again = model, copy.deepcopy(model)
    options = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 2}

    def trainer(model: Any) -> Any:
        return hf.Trainer(model=model, args=arguments(tmp_path, **options), train_dataset=labelled(model))

    first = trainer(whole)
    first.train()
    second = trainer(again)
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert losses(second) == losses(first)
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert again.decoder.output.weight is again.decoder.embedding.weight


def labelled(model: Any, length: int = 8) -> list[dict[str, Tensor]]:
    batch = model.processor(text=["abc" * (i % 3 + 1) for i in range(length)])
    return [{"pixel_values": IMAGES[i], "labels": batch.labels[i]} for i in range(length)]


@pytest.mark.parametrize("kwargs", [None, {"use_reentrant": False}, {"use_reentrant": True}])
def test_gradient_checkpointing_changes_no_loss(folder: Path, tmp_path: Path, kwargs: Any) -> None:
    runs = []
    for options in ({}, {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": kwargs}):
        _, (model, _) = both(folder)
        trainer = hf.Seq2SeqTrainer(
            model=model, args=arguments(tmp_path, **options, num_train_epochs=1), train_dataset=rows()
        )
        trainer.train()
        assert model.is_gradient_checkpointing is bool(options)
        runs.append(losses(trainer))
    assert runs[0] == pytest.approx(runs[1], abs=1e-6)


def test_label_smoothing(folder: Path, tmp_path: Path) -> None:
    """The smoother takes the labels out of the batch, so the batch has the decoder's input too."""
    runs = []
    for name, (model, _) in zip(("theirs", "ours"), both(folder), strict=True):

        def collate(examples: Any, model: Any = model) -> Any:
            batch = hf.default_data_collator(examples)
            batch["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
            return batch

        trainer = hf.Seq2SeqTrainer(
            model=model,
            args=arguments(
                tmp_path / name, label_smoothing_factor=0.1, eval_strategy="epoch", predict_with_generate=True
            ),
            train_dataset=rows(),
            eval_dataset=rows(7),
            data_collator=collate,
        )
        trainer.train()
        runs.append(losses(trainer) + losses(trainer, "eval_loss"))
    assert runs[0] == pytest.approx(runs[1], abs=2e-5)


def test_generation_config_of_the_arguments(folder: Path, tmp_path: Path) -> None:
    config = hf.GenerationConfig(max_new_tokens=5, num_beams=3, decoder_start_token_id=START)
    config.pad_token_id, config.eos_token_id = PAD, EOS
    found = []
    for name, (model, processor) in zip(("theirs", "ours"), both(folder), strict=True):
        args = arguments(tmp_path / name, predict_with_generate=True, generation_config=config)
        trainer = hf.Seq2SeqTrainer(model=model, args=args, processing_class=processor)
        found.append(trainer.predict(rows(5)).predictions)
        found.append(trainer.predict([{"pixel_values": row["pixel_values"]} for row in rows(5)]).predictions)
        found.append(trainer.predict(rows(5), num_beams=1, max_new_tokens=8).predictions)
    for theirs, ours in zip(found[:3], found[3:], strict=True):
        assert np.array_equal(theirs, ours)


@pytest.mark.parametrize("keys", [("pixel_values", "labels"), ("pixel_values", "decoder_input_ids")])
def test_trainer_predicts_logits(folder: Path, tmp_path: Path, keys: tuple[str, ...]) -> None:
    """With labels and without."""
    data = [
        {key: row["pixel_values"] if key == "pixel_values" else row["labels"].abs() % 40 for key in keys}
        for row in rows(5)
    ]
    found = []
    for name, (model, processor) in zip(("theirs", "ours"), both(folder), strict=True):
        trainer = hf.Trainer(model=model, args=arguments(tmp_path / name), processing_class=processor)
        found.append(trainer.predict(data))
    for theirs, ours in zip(found[0].predictions, found[1].predictions, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_accumulated_gradients_are_those_of_a_larger_batch(model: Any, tmp_path: Path) -> None:
    """transformers' own model takes the sum over batches for their mean here."""
    runs = []
    for size, steps in ((8, 1), (2, 4)):
        made = copy.deepcopy(model)
        nn.Module.eval(made)
        made.train = lambda mode=True, made=made: made  # without dropout, which would be drawn otherwise
        args = arguments(
            tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=steps, num_train_epochs=2
        )
        trainer = hf.Trainer(model=made, args=args, train_dataset=labelled(made))
        trainer.train()
        runs.append(losses(trainer))
    assert runs[0] == pytest.approx(runs[1], abs=1e-5)


def test_images_and_texts_as_they_are_read(model: Any, tmp_path: Path) -> None:
    before = model.decoder.embedding.weight.detach().clone()
    args = arguments(tmp_path, remove_unused_columns=False, num_train_epochs=1)
    hf.Trainer(model=model, args=args, train_dataset=texts(), data_collator=model.processor.collate).train()
    assert not torch.equal(model.decoder.embedding.weight, before)


@pytest.mark.parametrize("of", ["processor", "tokenizer"])
def test_examples_are_grouped_by_length(model: Any, tmp_path: Path, of: str) -> None:
    args = arguments(tmp_path, train_sampling_strategy="group_by_length", num_train_epochs=1)
    data = [{**row, "input_ids": row["labels"]} for row in labelled(model)]
    processing = model.processor if of == "processor" else model.processor.tokenizer
    trainer = hf.Trainer(model=model, args=args, train_dataset=data, processing_class=processing)
    trainer.train()
    assert len(losses(trainer)) == 2


def test_noise_on_the_embeddings(model: Any, tmp_path: Path) -> None:
    args = arguments(tmp_path, neftune_noise_alpha=5.0, num_train_epochs=1)
    trainer = hf.Trainer(model=model, args=args, train_dataset=labelled(model))
    trainer.train()
    assert len(losses(trainer)) == 2


def test_the_tokenizer_alone_is_saved_beside_the_weights(model: Any, tmp_path: Path) -> None:
    tokenizer = model.processor.tokenizer
    hf.Trainer(model=model, args=arguments(tmp_path), processing_class=tokenizer).save_model(tmp_path / "saved")
    back = hf.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert back("abc").input_ids == tokenizer("abc").input_ids
    assert (back.pad_token_id, back.eos_token_id) == (model.token_ids.pad, model.token_ids.eos[0])


def test_a_foreign_tokenizer_is_refused_with_what_to_give(model: Any, tmp_path: Path) -> None:
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=model.processor.tokenizer.backend_tokenizer)
    trainer = hf.Trainer(
        model=model, args=arguments(tmp_path), train_dataset=labelled(model), processing_class=tokenizer
    )
    with pytest.raises(vedcore.UsageError, match=r"processing_class=model\.processor"):
        trainer.train()


def test_a_checkpoint_without_settings_says_how_to_open_it(model: Any, tmp_path: Path) -> None:
    hf.Trainer(model=model, args=arguments(tmp_path)).save_model(tmp_path / "alone")
    with pytest.raises(vedcore.CheckpointNotFoundError, match=r"config\.json.*load_state_dict"):
        vedcore.load(tmp_path / "alone")
    fresh = copy.deepcopy(model)
    with torch.no_grad():
        fresh.decoder.embedding.weight.zero_()
    fresh.load_state_dict(safetensors.torch.load_file(tmp_path / "alone" / "model.safetensors"))
    assert torch.equal(fresh.decoder.embedding.weight, model.decoder.embedding.weight)


def test_a_state_names_tied_weights_once(model: Any, tmp_path: Path) -> None:
    state = model.state_dict()
    assert "decoder.output.weight" not in state
    assert "decoder.output.weight" in model.state_dict(keep_vars=True)
    assert {"part." + name for name in state} == nn.ModuleDict({"part": model}).state_dict().keys()
    other = vedcore.compose(model.config)
    for name in ("decoder.embedding.weight", "decoder.output.weight"):  # either name will do
        values = {k: v * 2 for k, v in state.items() if k != "decoder.embedding.weight"}
        nn.ModuleDict({"part": other}).load_state_dict(
            {f"part.{k}": v for k, v in {**values, name: state["decoder.embedding.weight"] * 2}.items()}
        )
        assert torch.equal(other.decoder.output.weight, model.decoder.embedding.weight * 2)
        assert other.decoder.output.weight is other.decoder.embedding.weight
    with pytest.raises(RuntimeError, match=r"decoder\.embedding\.weight"):
        other.load_state_dict({k: v for k, v in state.items() if k != "decoder.embedding.weight"})
    safetensors.torch.save_model(model, str(tmp_path / "model.safetensors"))
    assert safetensors.torch.load_model(other, str(tmp_path / "model.safetensors")) == (set(), [])
    assert torch.equal(other.decoder.embedding.weight, model.decoder.embedding.weight)


def test_a_config_is_what_others_ask_of_one(model: Any) -> None:
    config = model.config
    assert ModelConfig.parse(config.to_dict()).to_dict() == config.to_dict()
    assert config.to_json_string().startswith("{")
    assert (config.pad_token_id, config.decoder_start_token_id) == (model.token_ids.pad, model.token_ids.start)
    assert config.eos_token_id == model.token_ids.eos[0]
    config.use_cache = False
    assert not hasattr(config, "use_cache")
    with pytest.raises(ValueError, match="do not change in place"):
        config.dtype = "float16"


def test_nothing_is_missing_when_a_checkpoint_is_read(
    model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        args = arguments(tmp_path, save_strategy="epoch", num_train_epochs=1)
        hf.Trainer(model=model, args=args, train_dataset=labelled(model)).train()
        hf.Trainer(model=model, args=args, train_dataset=labelled(model)).train(resume_from_checkpoint=True)
    finally:
        logger.removeHandler(caplog.handler)
    assert not [record for record in caplog.records if "keys in the checkpoint" in record.message]
