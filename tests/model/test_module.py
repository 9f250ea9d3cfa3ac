"""The composed model as a module of torch: copies, state, config, precision, types of arguments."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import vedcore
from tests.model.tiny import IMAGE, close, ids, tiny


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_are_whole_and_apart(reader: Any, pictures: list[Image.Image], how: Callable[[Any], Any]) -> None:
    again = how(reader)
    a, b = (m.generate_text(pictures[0], max_new_tokens=6)[0] for m in (reader, again))
    assert a == b
    assert again.config == reader.config
    assert again.processor.encoder is again.encoder
    with torch.no_grad():
        next(again.parameters()).add_(1.0)
    assert reader.generate_text(pictures[0], max_new_tokens=6)[0] == a


def test_the_state_is_saved_as_that_of_any_module(model: Any, pixels: Tensor) -> None:
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = tiny("bert", seed=1)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other(pixels, decoder_input_ids=ids()).logits, model(pixels, decoder_input_ids=ids()).logits)


def test_the_config_says_what_the_model_is_now(model: Any) -> None:
    assert model.config.dtype == "float32"
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        model.to(dtype)
        assert model.config.dtype == str(dtype).removeprefix("torch.")
        assert vedcore.compose(model.config).dtype == dtype
    model.processor.preprocessing = model.processor.preprocessing.changed(image_mean=(0.1, 0.2, 0.3))
    assert vedcore.compose(model.config).processor.preprocessing.image_mean == (0.1, 0.2, 0.3)
    assert model.device == torch.device("cpu")


def test_double_precision_agrees_with_single(pixels: Tensor) -> None:
    single, double = tiny("bert"), tiny("bert").double()
    text = ids()
    close(double(pixels, decoder_input_ids=text).logits.float(), single(pixels, decoder_input_ids=text).logits)


def test_calls_with_other_types_are_refused() -> None:
    model = tiny("gpt2")
    pixels = torch.zeros(1, 3, *IMAGE)
    calls: tuple[tuple[str, Callable[[], object]], ...] = (
        ("generation_config", lambda: model.generate(pixels, {"num_beams": 2})),  # type: ignore[arg-type]
        ("decoder_input_ids", lambda: model.generate(pixels, decoder_input_ids=torch.tensor(1))),
        ("pad_token_id", lambda: model.generate(pixels, pad_token_id=10**5000)),
        ("top_k", lambda: model.generate(pixels, top_k=10**5000)),
        ("vocab_size", lambda: model.resize_vocabulary(1 << 70)),
        ("vocab_size", lambda: model.resize_vocabulary("9")),  # type: ignore[arg-type]
        ("token_ids", lambda: setattr(model, "token_ids", {"start": 1})),
    )
    for field, call in calls:
        with pytest.raises(vedcore.ConfigError, match=f"^{field}: "):
            call()


def test_names_of_transformers() -> None:
    model = tiny()
    assert model.get_encoder() is model.encoder
    assert model.get_decoder() is model.decoder
    every = sum(p.numel() for p in model.parameters())
    assert model.num_parameters() == every
    model.freeze("encoder")
    assert model.num_parameters(only_trainable=True) == every - sum(p.numel() for p in model.encoder.parameters())
    tables = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding)}
    assert model.num_parameters(exclude_embeddings=True) == every - sum(tables.values())
    with pytest.raises(vedcore.UsageError, match="resize_vocabulary"):
        model.resize_token_embeddings(7)
