"""Streamers get what transformers would hand them; iterators give the same tokens without a thread."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vedcore.config import TokenIds
from vedcore.errors import NonFiniteError, UsageError
from vedcore.generation.options.config import GenerationConfig
from vedcore.generation.request import Request
from vedcore.generation.search import stream

PROMPT = torch.tensor([[1, 5, 9], [1, 7, 3]])


class Recorder:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def put(self, value: torch.Tensor) -> None:
        self.seen.append(value.tolist())

    def end(self) -> None:
        self.seen.append("end")


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "num_return_sequences": 2}], ids=str)
def test_streamer_gets_what_transformers_gives(gpt2: Any, gpt2_state: Any, run: Any, options: dict[str, Any]) -> None:
    options = {**options, "max_new_tokens": 8, "eos_token_id": [2, 11, 17, 23], "pad_token_id": 0}
    ours, theirs = Recorder(), Recorder()
    torch.manual_seed(3)
    out = run(gpt2_state(gpt2), PROMPT, streamer=ours, **options)
    torch.manual_seed(3)
    expected = gpt2.generate(PROMPT, attention_mask=torch.ones_like(PROMPT), streamer=theirs, **options)
    assert ours.seen == theirs.seen
    assert ours.seen[-1] == "end"
    assert torch.equal(out.sequences, expected)


def test_streamer_is_ended_after_an_error(table_state: Any, run: Any) -> None:
    recorder, table = Recorder(), torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    state = table_state(table, {(2, 0): float("nan")})
    with pytest.raises(NonFiniteError, match="step 2"):
        run(state, torch.tensor([[1]]), vocab=5, max_new_tokens=9, streamer=recorder)
    assert len(recorder.seen) == 4  # the prompt, two tokens, the end
    assert recorder.seen[-1] == "end"


def test_streamers_that_cannot_be_used(table_state: Any, run: Any) -> None:
    state = table_state(torch.zeros(5, 5))
    with pytest.raises(UsageError, match="num_beams: 3 texts by 2 beams cannot be streamed"):
        run(state, torch.tensor([[1], [2], [3]]), vocab=5, num_beams=2, streamer=Recorder())
    with pytest.raises(UsageError, match="streamer: list lacks put"):
        run(state, torch.tensor([[1]]), vocab=5, streamer=[])
    assert state.calls == 0


@pytest.mark.parametrize("options", [{"num_return_sequences": 2}, {"do_sample": True, "seed": 1}], ids=str)
def test_beams_stream_what_they_agree_on(gpt2: Any, gpt2_state: Any, run: Any, options: dict[str, Any]) -> None:
    for row in PROMPT:
        recorder = Recorder()
        out = run(
            gpt2_state(gpt2),
            row[None],
            streamer=recorder,
            num_beams=3,
            eos_token_id=[2, 11, 17, 23],
            pad_token_id=0,
            max_new_tokens=12,
            **options,
        )
        prompt, *tokens, end = recorder.seen
        assert (prompt, end) == ([row.tolist()], "end")
        assert [token for [token] in tokens] == out.sequences[0, 3 : 3 + out.lengths[0]].tolist()


@pytest.mark.parametrize("skip_prompt", [False, True])
def test_transformers_own_streamer(pair: Any, skip_prompt: bool, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import TextStreamer

    model = pair("bart")
    for pixels in model.pixels.split(1):
        streamer = TextStreamer(model.tokenizer, skip_prompt=skip_prompt)
        model.theirs.generate(pixels, max_new_tokens=9, streamer=streamer, pad_token_id=2)
        expected = capsys.readouterr().out
        for beams in (1, 2):
            ids = model.ours.generate(pixels, max_new_tokens=9, streamer=streamer, num_beams=beams)
            text = model.ours.processor.decode(ids[0, skip_prompt:], skip_special_tokens=False)
            assert capsys.readouterr().out == (expected if beams == 1 else text + "\n")


def _stream(state: Any, **options: Any) -> Any:
    config = GenerationConfig(max_new_tokens=6, **options)
    return stream(state, Request(PROMPT, config, TokenIds(eos=(2, 11), pad=0), config.limits(3, 64)))


def test_iterator(gpt2: Any, gpt2_state: Any, run: Any) -> None:
    whole = run(gpt2_state(gpt2), PROMPT, max_new_tokens=6, eos_token_id=(2, 11), pad_token_id=0)
    iterator = _stream(gpt2_state(gpt2))
    tokens = list(iterator)
    assert torch.equal(torch.stack(tokens, 1), whole.sequences[:, 3:])
    assert torch.equal(iterator.output.sequences, whole.sequences)
    assert list(iterator) == []
    assert iterator.output is not None
    with pytest.raises(UsageError, match="num_beams"):
        _stream(gpt2_state(gpt2), num_beams=2)


def test_iterator_runs_only_as_far_as_it_is_asked(table_state: Any) -> None:
    class Watching(table_state):  # type: ignore[misc]
        def _logits(self, last: torch.Tensor) -> torch.Tensor:
            assert not torch.is_grad_enabled()
            return super()._logits(last)

    state = Watching(torch.randn(12, 12, generator=torch.Generator().manual_seed(0)))
    iterator = _stream(state)
    assert state.calls == 0
    next(iterator)
    assert torch.is_grad_enabled()
    next(iterator)
    assert state.calls == 2
    iterator.close()
    assert list(iterator) == []
    assert iterator.output is None
