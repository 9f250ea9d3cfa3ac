"""A LightningModule around a model: fit, checkpoint, load, predict with generate."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import vedcore
from tests.trainers.tiny import IMAGES, PAD, checkpoint, rows

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Captioner(lightning.LightningModule):
    def __init__(self, folder: str) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = vedcore.load(folder)

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        return self.model(**batch).loss

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        self.log("loss", self.model(**batch).loss)
        self.texts = self.model.generate(batch["pixel_values"], max_new_tokens=4)

    def predict_step(self, batch: dict[str, Tensor]) -> Tensor:
        return self.model.generate(batch["pixel_values"], max_new_tokens=6)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


@pytest.mark.parametrize("decoder", ["bert", "gpt2"])
def test_a_module_fits_and_predicts(decoder: str, tmp_path: Path) -> None:
    """Validation writes texts under inference mode, between two epochs of training."""
    folder = str(checkpoint(tmp_path / "start", decoder))
    loader = DataLoader(rows(), batch_size=4)  # type: ignore[arg-type]
    options: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": tmp_path,
    }
    module = Captioner(folder)
    trainer = lightning.Trainer(max_epochs=2, **options)
    before = trainer.validate(module, loader, verbose=False)[0]["loss"]
    trainer.fit(module, loader, loader)
    assert trainer.callback_metrics["loss"] < before
    path = Path(trainer.checkpoint_callback.best_model_path)  # type: ignore[union-attr]
    due = module.model.generate(IMAGES, max_new_tokens=6)

    again = Captioner.load_from_checkpoint(path)
    width = due.shape[1]
    found: Any = lightning.Trainer(**options).predict(again, loader)
    padded = [torch.nn.functional.pad(ids, (0, width - ids.shape[1]), value=PAD) for ids in found]
    assert torch.equal(torch.cat(padded), due)
    assert again.model.get_output_embeddings().weight is again.model.get_input_embeddings().weight

    longer = lightning.Trainer(max_epochs=3, **options)
    longer.fit(Captioner(folder), loader, loader, ckpt_path=path, weights_only=False)
    whole = Captioner(folder)
    lightning.Trainer(max_epochs=3, **options).fit(whole, loader, loader)
    for a, b in zip(longer.lightning_module.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a, b)
