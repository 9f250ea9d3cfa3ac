"""The `keras.Model`: calls, training, and saving."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from models import images, texts, tiny

import vedcore
import vedcore_tensorflow

Recorded = Callable[..., tuple[Any, Path]]


def close(found: Any, due: torch.Tensor) -> None:
    np.testing.assert_allclose(np.asarray(found), due.detach().numpy(), atol=2e-5, rtol=2e-4)


def test_a_call_gives_the_models_numbers(recorded: Recorded) -> None:
    theirs, folder = recorded("swin", "roberta")
    ours, pixels, labels = vedcore_tensorflow.load(folder), images(theirs), texts()
    mask = torch.ones_like(labels)
    mask[0, :2], labels[1, 4:] = 0, -100
    for given in (
        {"labels": labels},
        {"decoder_input_ids": texts(3, 4)},
        {"decoder_input_ids": texts(), "labels": labels, "decoder_attention_mask": mask},
    ):
        taken = {name: each.numpy() for name, each in given.items()}
        found, due = ours(pixels.numpy(), **taken), theirs(pixels, **given)
        close(found.logits, due.logits)
        assert (found.loss is None) == (due.loss is None)
        if due.loss is not None:
            close(found.loss, due.loss)
        again = ours(encoder_outputs=found, **taken)
        np.testing.assert_allclose(again.logits, found.logits, atol=1e-6)
        close(ours({"pixel_values": pixels.numpy(), **taken}).logits, due.logits)


def test_a_call_without_images_or_text_says_so(recorded: Recorded) -> None:
    theirs, folder = recorded("swin", "roberta")
    ours = vedcore_tensorflow.load(folder)
    with pytest.raises(vedcore.UsageError, match="pixel_values: no images"):
        ours.call(labels=texts().numpy())
    with pytest.raises(vedcore.UsageError, match=r"images of shape \(3, 3, 32\), \(N, 3, any, any\) expected"):
        ours.call(images(theirs)[:, :, 0].numpy(), labels=texts().numpy())
    with pytest.raises(vedcore.UsageError, match="a text of 41 tokens, but the decoder has 38 positions"):
        ours.call(images(theirs).numpy(), labels=texts(3, 41).numpy())
    with pytest.raises(vedcore.UsageError, match="decoder_input_ids: no text"):
        ours.call(images(theirs).numpy())
    with pytest.raises(vedcore.UsageError, match="pixel_values: no images"):
        ours.generate()


def test_dropout_is_of_training_alone(recorded: Recorded) -> None:
    theirs, folder = recorded()
    ours, given = vedcore_tensorflow.load(folder), {"labels": texts().numpy()}
    pixels = images(theirs).numpy()
    losses = [{float(ours(pixels, **given, training=training).loss) for _ in range(4)} for training in (False, True)]
    assert [len(each) for each in losses] == [1, 4]
    assert abs(np.mean(list(losses[1])) - np.mean(list(losses[0]))) < 0.5


def test_fit_lowers_the_loss_and_files_keep_the_weights(recorded: Recorded, tmp_path: Path) -> None:
    theirs, folder = recorded()
    ours = vedcore_tensorflow.load(folder)
    batch = {"pixel_values": images(theirs, 8).numpy(), "labels": texts(8, 5).numpy()}
    ours.compile(optimizer=keras.optimizers.AdamW(3e-3))
    history = ours.fit(batch, batch_size=4, epochs=6, verbose=0)
    assert history.history["loss"][-1] < 0.7 * history.history["loss"][0]
    more = ours.fit(batch["pixel_values"], batch["labels"], batch_size=8, epochs=1, verbose=0).history["loss"][0]
    assert more < history.history["loss"][0]
    due = ours.evaluate(batch, verbose=0)
    assert due < history.history["loss"][0]

    ours.save_weights(tmp_path / "model.weights.h5")
    ours.save(tmp_path / "model.keras")
    other = vedcore_tensorflow.load(folder)
    other.load_weights(tmp_path / "model.weights.h5")
    other.compile()
    assert other.evaluate(batch, verbose=0) == pytest.approx(due, rel=1e-5)
    theirs = tiny()
    theirs.load_state_dict({name: torch.from_numpy(each) for name, each in ours.arrays().items()}, strict=False)
    assert float(theirs(**{name: torch.from_numpy(each) for name, each in batch.items()}).loss) == pytest.approx(
        due, rel=1e-4
    )

    np.savez(tmp_path / "batch.npz", **batch)
    code = """
import sys
sys.modules["torch"] = None
import keras, numpy, vedcore_tensorflow.model
model = keras.saving.load_model("model.keras")
batch = dict(numpy.load("batch.npz"))
print(float(model(batch).loss), model.generate(batch["pixel_values"], max_new_tokens=5).numpy().tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    loss, _, ids = done.stdout.partition(" ")
    assert float(loss) == pytest.approx(due, rel=1e-5)
    assert ids.strip() == str(ours.generate(batch["pixel_values"], max_new_tokens=5).numpy().tolist())


def test_a_loss_and_metrics_of_keras(recorded: Recorded) -> None:
    theirs, folder = recorded()
    ours, pixels, labels = vedcore_tensorflow.load(folder), images(theirs, 4).numpy(), texts(4, 5).numpy()
    ours.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    due = float(ours(pixels, labels=labels).loss)
    found = ours.evaluate(pixels, labels, verbose=0)
    assert found == pytest.approx(due, rel=1e-5)


def test_sample_weights_are_refused(recorded: Recorded) -> None:
    theirs, folder = recorded()
    ours = vedcore_tensorflow.load(folder)
    ours.compile(optimizer="sgd")
    with pytest.raises(vedcore.UsageError, match="sample_weight: the model's own loss takes no weights"):
        ours.fit(images(theirs, 4).numpy(), texts(4, 5).numpy(), sample_weight=np.ones(4), verbose=0)


@pytest.mark.parametrize("form", ["native", "transformers"])
def test_a_checkpoint_of_pytorch_in_one_call(form: str, tmp_path: Path) -> None:
    theirs = tiny(decoder="bert") if form == "transformers" else tiny()
    theirs.save_pretrained(tmp_path / "model", format=form)
    ours = vedcore_tensorflow.load(tmp_path / "model")
    pixels, labels = images(theirs), texts()
    close(ours(pixels.numpy(), labels=labels.numpy()).logits, theirs(pixels, labels=labels).logits)


def test_folders_that_hold_no_model_are_refused(recorded: Recorded, tmp_path: Path) -> None:
    with pytest.raises(vedcore.IncompatibleError, match="nowhere cannot be recorded"):
        vedcore_tensorflow.load(tmp_path / "nowhere")
    _, folder = recorded()
    (tmp_path / "graph.json").write_bytes((folder / "graph.json").read_bytes())
    with pytest.raises(vedcore.CheckpointError, match=r"model\.safetensors"):
        vedcore_tensorflow.load(tmp_path)
    ours = vedcore_tensorflow.load(folder)
    with pytest.raises(vedcore.IncompatibleError, match="expected, it is not there"):
        ours.set_arrays({})
    assert all(isinstance(each.value, tf.Variable) for each in ours.weights)
