"""Several threads at once, as in a server, find, build, load and write what one thread alone would."""

from __future__ import annotations

import copy
import faulthandler
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

import vedcore
from tests.packing import packed_products
from vedcore.layers import onednn, sharing

Result = TypeVar("Result")
SMALL: tuple[dict[str, Any], dict[str, Any]] = (
    {"name": "vit_tiny_patch16_224", "num_hidden_layers": 2},
    {"name": "gpt2", "n_layer": 2, "n_embd": 48, "n_head": 2},
)
FIRST_USE = """
import sys, threading
sys.setswitchinterval(1e-6)
import vedcore

names = [("vit", "gpt2"), ("swin", "bert"), ("beit", "roberta"), ("timm/resnet18", "distilbert"), ("deit", "bart")]
together, found = threading.Barrier(len(names)), {}

def look(pair):
    together.wait()
    found[pair] = vedcore.plan(*pair, tokenizer="char").parameters

threads = [threading.Thread(target=look, args=(pair,)) for pair in names]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert found == {pair: vedcore.plan(*pair, tokenizer="char").parameters for pair in names}, found
"""


@pytest.fixture(autouse=True)
def quick_switches() -> Iterator[None]:
    """Let threads interrupt each other all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def _at_once(run: Callable[[int], Result], count: int) -> list[Result]:
    together = threading.Barrier(count)

    def wait_and_run(number: int) -> Result:
        together.wait()
        return run(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(wait_and_run, range(count)))


def test_parts_are_imported_once() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_USE], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_seeds_hold() -> None:
    def weights(seed: int) -> Tensor:
        model = vedcore.compose(*SMALL, tokenizer="char", seed=seed)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    for found, due in zip(_at_once(weights, 4), map(weights, range(4)), strict=True):
        assert torch.equal(found, due)


def test_folders_are_opened_and_written(tmp_path: Path) -> None:
    model = vedcore.compose(*SMALL, tokenizer="char", seed=0)
    model.save_pretrained(tmp_path / "model")
    due = model.state_dict()

    def saved_again(number: int) -> None:
        format: Any = ("native", "transformers")[number % 2]
        vedcore.load(tmp_path / "model").save_pretrained(tmp_path / f"copy{number}", format=format)
        back = vedcore.load(tmp_path / f"copy{number}").state_dict()
        assert all(torch.equal(back[name], tensor) for name, tensor in due.items())

    _at_once(saved_again, 6)


def test_one_model_writes_many_kinds_of_texts() -> None:
    model = vedcore.compose(*SMALL, tokenizer="char", image_size=32, seed=0)
    with torch.no_grad():
        for i, parameter in enumerate(model.decoder.parameters()):
            if parameter.ndim > 1:
                parameter.normal_(0, 0.5, generator=torch.Generator().manual_seed(i))
    image = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))
    kinds: list[dict[str, Any]] = [
        {},
        {"num_beams": 3},
        {"pattern": "[a-f0-9]+"},
        {"lexicon": ["cat", "dog", "catalogue"]},
        {"prompt": "ab"},
        {"do_sample": True, "seed": 3},
        {"penalty_alpha": 0.6, "top_k": 3},
        {"prompt_lookup_num_tokens": 2},
    ]

    def text(number: int) -> str:
        return "".join(model.stream(image, max_new_tokens=12, **kinds[number]))

    assert _at_once(text, len(kinds)) == [text(number) for number in range(len(kinds))]


@pytest.mark.skipif(not onednn.is_right(torch.float32), reason="this torch has no oneDNN product")
def test_first_texts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that comes while another packs waits, and finds the weights packed."""
    monkeypatch.setattr(onednn, "is_faster", lambda dtype, *_: onednn.is_right(dtype))
    pixels = torch.randn(1, 3, 32, 32)
    for seed in range(3):
        model = vedcore.compose(SMALL[0], {"name": "gpt2", "n_layer": 3}, tokenizer="char", image_size=32, seed=seed)
        due = copy.deepcopy(model).generate(pixels, max_new_tokens=3)

        def write(number: int, model: Any = model) -> Tensor:
            ids: Tensor = model.generate(pixels, max_new_tokens=3)
            return ids

        assert all(ids.equal(due) for ids in _at_once(write, 4))
        given = {"input_ids": torch.ones(1, 2, dtype=torch.long), "encoder_hidden_states": torch.zeros(1, 5, 768)}
        products = packed_products(lambda model=model, given=given: model.decoder(**given))
        assert products
        assert all(products)


DROPOUTS = ("embd_pdrop", "resid_pdrop", "attn_pdrop")


def _tiny() -> vedcore.VisionEncoderDecoder:
    """A model whose texts differ where any of its weights do."""
    encoder = {"name": "vit", "image_size": [16, 16], "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 1}
    model = vedcore.compose(
        {**encoder, "num_attention_heads": 2, "intermediate_size": 24},
        {"name": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, **dict.fromkeys(DROPOUTS, 0.0)},
        tokenizer="char",
        seed=0,
    )
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.normal_(0, 0.5, generator=torch.Generator().manual_seed(i))
    return model


def test_fifty_threads_share_a_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They write, read, look, save, move it and change its mode 10,000 times in all, and see no other model."""
    monkeypatch.setattr(onednn, "is_faster", lambda dtype, *_: onednn.is_right(dtype))
    sys.setswitchinterval(1e-4)
    model = _tiny()
    image, ids = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([[1, 5, 9]])

    def logits() -> Tensor:
        with torch.no_grad():
            out: Tensor = model(image, decoder_input_ids=ids).logits
        return out

    texts = [model.generate(image, max_new_tokens=6, num_beams=beams) for beams in (1, 3)]
    pieces = "".join(model.stream(image[0], max_new_tokens=6))
    due, weights, count = logits(), copy.deepcopy(model.state_dict()), model.num_parameters()
    numbers = iter(range(1_000_000))

    def save() -> bool:
        folder = tmp_path / str(next(numbers))
        model.save_pretrained(folder, hashes=False)
        back = vedcore.load(folder, verify=False).state_dict()
        return all(torch.equal(back[name], tensor) for name, tensor in weights.items())

    def abandon() -> bool:
        return pieces.startswith(next(model.stream(image[0], max_new_tokens=6)))

    looks: list[tuple[int, Callable[[], object]]] = [
        (106, lambda: model.num_parameters() == count),
        (12, lambda: all(torch.equal(model.state_dict()[name], tensor) for name, tensor in weights.items())),
        (60, lambda: sum(parameter.numel() for parameter in model.parameters()) == count),
        (2, lambda: len(copy.deepcopy(model).state_dict()) == len(weights)),
        (4, lambda: torch.allclose(logits(), due, atol=1e-4)),
        (3, lambda: torch.equal(model.generate(image, max_new_tokens=6), texts[0])),
        (1, lambda: torch.equal(model.generate(image, max_new_tokens=6, num_beams=3), texts[1])),
        (1, lambda: "".join(model.stream(image[0], max_new_tokens=6)) == pieces),
        (1, abandon),
        (3, lambda: model.to(torch.float32)),
        (2, lambda: model.train().eval()),
        (2, lambda: model.load_state_dict(weights)),
        (1, lambda: model.freeze("encoder").unfreeze("encoder")),
        (1, lambda: model.optimize_for_inference()),
    ]
    plan = [look for times, look in looks for _ in range(times)]
    assert len(plan) == 199

    def visit(number: int) -> None:
        for i in range(199):
            assert plan[(i * 89 + number * 37) % 199]()
        assert number % 10 or save()

    faulthandler.dump_traceback_later(500, exit=True)  # a deadlock
    try:
        _at_once(visit, 50)
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert torch.equal(model.generate(image, max_new_tokens=6), texts[0])


class _Steps:
    """Runs one function in another thread, which may have to wait."""

    def __init__(self, run: Callable[[], object]) -> None:
        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def waits(self) -> bool:
        self.thread.join(0.1)
        return self.thread.is_alive()

    def ends(self) -> bool:
        self.thread.join(60)
        return not self.thread.is_alive()


CHANGES: dict[str, Callable[[Any], object]] = {
    "to": lambda model: model.to(torch.float64),
    "train": lambda model: model.train(),
    "freeze": lambda model: model.freeze("decoder"),
    "load_state_dict": lambda model: model.load_state_dict(_tiny().state_dict()),
    "resize_vocabulary": lambda model: model.resize_vocabulary(200),
    "add_tokens": lambda model: model.add_tokens(["<new>"]),
    "token_ids": lambda model: setattr(model, "token_ids", model.token_ids.changed(eos=(5,))),
    "processor": lambda model: setattr(model, "processor", copy.deepcopy(model.processor)),
    "generation_config": lambda model: setattr(model, "generation_config", vedcore.GenerationConfig(num_beams=2)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_waits_for_the_text(change: str) -> None:
    model, image = _tiny(), torch.rand(3, 16, 16)
    due = "".join(model.stream(image, max_new_tokens=8))
    pieces = model.stream(image, max_new_tokens=8)
    other = _Steps(lambda: CHANGES[change](model))
    assert other.waits()
    with torch.no_grad():
        model(image[None], decoder_input_ids=torch.tensor([[1]]))  # others still read
    assert "".join(pieces) == due
    assert other.ends()


def test_a_stream_goes_from_thread_to_thread_and_ends_when_it_is_dropped() -> None:
    model, image = _tiny(), torch.rand(3, 16, 16)
    due = "".join(model.stream(image, max_new_tokens=8))
    pieces = model.stream(image, max_new_tokens=8)
    found: list[str] = []
    while len(found) < 4:
        assert _Steps(lambda text=pieces: found.append(next(text))).ends()
    assert due.startswith("".join(found))
    other = _Steps(lambda: model.to(torch.float32))
    assert other.waits()
    del pieces
    assert other.ends()


def test_who_has_the_model_may_change_it() -> None:
    """As a streamer, a criterion or the reader of a stream does."""
    model, image = _tiny(), torch.rand(1, 3, 16, 16)
    due = model.generate(image, max_new_tokens=6)

    def criterion(ids: Tensor, scores: object) -> Tensor:
        model.to(torch.float32)
        model.train().eval()
        assert torch.equal(model.generate(image, max_new_tokens=6), due)
        return torch.zeros(len(ids), dtype=torch.bool)

    def write() -> None:
        assert torch.equal(model.generate(image, max_new_tokens=6, stopping_criteria=[criterion]), due)
        for _ in model.stream(image, max_new_tokens=3):
            model.to(torch.float32)

    threads = [
        _Steps(write) for _ in range(3)
    ]  # each waits for the others to change the model, in the midst of its text
    assert all(thread.ends() for thread in threads)


def test_texts_of_a_model_in_training() -> None:
    model, image = _tiny(), torch.rand(1, 3, 16, 16)
    due = model.generate(image, max_new_tokens=6)
    model.train()

    def write(number: int) -> bool:
        model(image, labels=torch.tensor([[5, 6]])).loss.backward()
        return torch.equal(model.generate(image, max_new_tokens=6), due)

    assert all(_at_once(write, 6))
    assert all(module.training for module in model.modules())


def test_copies_have_a_lock_of_their_own() -> None:
    model, image = _tiny(), torch.rand(3, 16, 16)
    pieces = model.stream(image, max_new_tokens=8)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert _Steps(lambda other=other: other.to(torch.float64).train()).ends()
    assert "".join(pieces)


@pytest.mark.parametrize("training", [False, True])
def test_a_change_does_not_wait_for_ever_for_a_stream_that_nobody_reads(
    monkeypatch: pytest.MonkeyPatch, training: bool
) -> None:
    monkeypatch.setattr(sharing, "MAX_REST", 0.3)
    model, image = _tiny(), torch.rand(3, 16, 16)
    due = model.generate(image[None], max_new_tokens=6)
    model.train(training)
    pieces = model.stream(image, max_new_tokens=8)
    next(pieces)
    assert _Steps(lambda: model.to(torch.float32)).ends()
    assert model.training == training
    with pytest.raises(vedcore.GenerationError, match="nobody read on"):
        next(pieces)
    del pieces
    assert all(module.training == training for module in model.modules())
    assert torch.equal(model.generate(image[None], max_new_tokens=6), due)


def test_a_change_comes_in_between_endless_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "MAX_REST", 0.5)
    model, image, done = _tiny(), torch.rand(3, 16, 16), threading.Event()

    def read() -> None:
        while not done.is_set():
            for _ in model.stream(image, max_new_tokens=8):
                done.wait(0.02)

    readers = [_Steps(read) for _ in range(3)]
    change = _Steps(lambda: model.to(torch.float32))
    ended = change.ends()
    done.set()
    assert ended
    assert all(reader.ends() for reader in readers)


def test_two_models_in_training_assist_each_other() -> None:
    models, image = (_tiny(), _tiny()), torch.rand(1, 3, 16, 16)
    due = models[0].generate(image, max_new_tokens=6)
    for model in models:
        model.train()
    crossed = [
        _Steps(lambda a=a, b=b: [a.generate(image, max_new_tokens=6, assistant_model=b) for _ in range(10)])
        for a, b in (models, models[::-1])
    ]
    changes = [_Steps(lambda model=model: [model.to(torch.float32) for _ in range(10)]) for model in models]
    assert all(thread.ends() for thread in (*crossed, *changes))
    assert all(model.training for model in models)
    assert torch.equal(models[0].generate(image, max_new_tokens=6), due)


def test_texts_that_change_each_others_models() -> None:
    models, image, together = (_tiny(), _tiny()), torch.rand(1, 3, 16, 16), threading.Barrier(2)
    due = models[0].generate(image, max_new_tokens=3)
    found: list[bool] = []

    def write(mine: Any, other: Any) -> None:
        def criterion(ids: Tensor, scores: object) -> Tensor:
            if ids.shape[1] == 2:
                together.wait(60)
            other.to(torch.float32)
            return torch.zeros(len(ids), dtype=torch.bool)

        found.append(torch.equal(mine.generate(image, max_new_tokens=3, stopping_criteria=[criterion]), due))

    threads = [_Steps(lambda pair=pair: write(*pair)) for pair in (models, models[::-1])]
    assert all(thread.ends() for thread in threads)
    assert found == [True, True]


FORKED = """
import os, threading, torch, vedcore
from tests.test_threads import _tiny
torch.set_num_threads(1)
model, image, inside, done = _tiny().train(), torch.rand(1, 3, 16, 16), threading.Event(), threading.Event()

def criterion(ids, scores):
    inside.set()
    done.wait()
    return torch.ones(len(ids), dtype=torch.bool)

thread = threading.Thread(target=lambda: model.generate(image, max_new_tokens=2, stopping_criteria=[criterion]))
thread.start()
inside.wait()
child = os.fork()
if not child:
    assert all(module.training for module in model.modules())
    model.to(torch.float32).generate(image, max_new_tokens=2)
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
done.set()
thread.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_does_not_wait_for_threads_that_it_lacks() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
