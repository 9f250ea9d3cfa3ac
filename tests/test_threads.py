"""Several threads at once, as in a server, find, build, load and write what one thread alone would."""

from __future__ import annotations

import copy
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
from vedcore.layers import onednn

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
    monkeypatch.setattr(onednn, "is_faster", onednn.is_right)
    pixels = torch.randn(1, 3, 32, 32)
    for seed in range(6):
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
