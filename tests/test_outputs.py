"""Outputs as others take them apart and put them together: trainers, gatherers, pickle."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest
import torch
from accelerate.utils import convert_to_fp32

from vedcore.outputs import EncoderOutput, VisionEncoderDecoderOutput

OUT = VisionEncoderDecoderOutput(loss=torch.tensor(1.0), logits=torch.zeros(2, 3, dtype=torch.bfloat16))


def test_an_output_is_a_dict_of_the_fields_that_are_set() -> None:
    assert isinstance(OUT, dict)
    assert list(OUT) == list(OUT.keys()) == list({**OUT}) == ["loss", "logits"]
    assert OUT["logits"] is OUT[1] is OUT.logits is OUT.to_tuple()[1] is OUT[1:][0]
    assert "past_key_values" not in OUT
    assert OUT.get("past_key_values") is OUT.past_key_values is None
    with pytest.raises(KeyError):
        OUT["past_key_values"]


def test_an_output_is_made_of_a_mapping_or_of_pairs() -> None:
    for given in (dict(OUT), iter(OUT.items())):
        again = VisionEncoderDecoderOutput(given)  # type: ignore[arg-type]
        assert again.to_tuple() == OUT.to_tuple()
        assert again.loss is OUT.loss
    assert VisionEncoderDecoderOutput({"logits": OUT.logits}).loss is None  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no field 'other'"):
        EncoderOutput({"other": 1})  # type: ignore[arg-type]
    found = convert_to_fp32(OUT)
    assert type(found) is VisionEncoderDecoderOutput
    assert found.logits.dtype == torch.float32


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda out: pickle.loads(pickle.dumps(out))])
def test_a_copy_has_the_same_fields(copied: object) -> None:
    again = copied(OUT)  # type: ignore[operator]
    assert type(again) is VisionEncoderDecoderOutput
    assert list(again) == ["loss", "logits"]
    assert torch.equal(again.logits, OUT.logits)
    assert list(dataclasses.replace(again, loss=None)) == ["logits"]


def test_an_output_does_not_change() -> None:
    changes = (lambda: OUT.update(loss=1), lambda: OUT.pop("loss"), lambda: OUT.__setitem__("loss", 1), OUT.clear)
    for change in changes:
        with pytest.raises(TypeError, match="does not change"):
            change()  # type: ignore[no-untyped-call]
