"""The padding id in the middle of a text: those after it count it, as in transformers with its cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch


@pytest.mark.parametrize("family", ["roberta", "trocr-sinusoid"])
def test_written_padding_counts(pair: Any, family: str) -> None:
    seen = 0
    for seed in range(3):
        model = pair(family, seed)
        for extra in (
            {},
            {"num_beams": 3},
            {"decoder_input_ids": torch.tensor([[0, 2, 7]] * 4)},
            {"decoder_start_token_id": 2},
        ):
            options: dict[str, Any] = {**extra, "max_new_tokens": 10, "sequence_bias": [[[2], 4.0]]}
            ours, theirs = model.generate(options)
            assert ours.sequences.tolist() == theirs.sequences.tolist()
            others: list[dict[str, Any]] = [{"use_cache": False}]
            if "num_beams" not in extra:
                others += [{"prompt_lookup_num_tokens": 3}, {"assistant_model": pair("gpt2").ours}]
                others += [{"prompt_lookup_num_tokens": 3, "use_cache": False}]
            for other in others:
                assert model.ours.generate(model.pixels, **options, **other).tolist() == ours.sequences.tolist()
            seen += int((ours.sequences[:, 1:-1] == 2).any())
    assert seen > 6
