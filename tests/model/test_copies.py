"""Copies of a model in this process and in others: deep copies, pickles, spawned workers, replicas, DDP."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

import vedcore
from tests.model.tiny import IMAGE, ids, tiny

PIXELS = torch.randn(4, 3, *IMAGE, generator=torch.Generator().manual_seed(0))
LABELS = ids(4)
SPAWN = multiprocessing.get_context("spawn")
MAX_SECONDS = 300
"""A worker process that takes longer has died."""


def pickled(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


def saved_whole(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def written(model: Any) -> list[list[int]]:
    """The ids that a model writes; a worker process calls it too."""
    torch.set_num_threads(1)
    found: list[list[int]] = model.generate(PIXELS, max_new_tokens=6).tolist()
    return found


COPIES: dict[str, Callable[[Any], Any]] = {"deepcopy": copy.deepcopy, "pickle": pickled, "torch.save": saved_whole}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("decoder", ["gpt2", "bert", "trocr"])
@pytest.mark.parametrize("state", ["fresh", "has written", "training"])
def test_a_copy_is_the_same_and_its_own(how: str, decoder: str, state: str) -> None:
    model = tiny(decoder)
    due = written(model) if state != "fresh" else written(tiny(decoder))
    if state == "training":
        model.freeze("encoder").train()
    twin = COPIES[how](model)
    assert twin.training == model.training
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in model.parameters()]
    assert (twin.token_ids, twin.config) == (model.token_ids, model.config)
    output, embedding = twin.decoder.get_output_embeddings(), twin.decoder.get_input_embeddings()
    assert output.weight is embedding.weight
    assert written(twin.eval()) == written(model.eval()) == due
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.fill_(0.01)
    assert written(model) == due
    twin.freeze("decoder").train()
    assert all(p.requires_grad for p in model.decoder.parameters())


def test_a_pool_of_spawned_workers_gets_the_model() -> None:
    model = tiny("bert")
    due = written(model)
    with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
        assert pool.submit(written, model).result(MAX_SECONDS) == due


def write_into(model: Any, queue: Any) -> None:
    queue.put(written(model))


def test_a_spawned_process_shares_the_weights() -> None:
    """`torch.multiprocessing` sends handles of shared memory."""
    model = tiny("gpt2").share_memory()
    due = written(model)
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=write_into, args=(model, queue))
    process.start()
    assert queue.get(timeout=MAX_SECONDS) == due
    process.join()
    assert process.exitcode == 0


class Drawn(torch.utils.data.Dataset[Any]):
    """Images that a worker prepares with the model's processor."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = Image.new("RGB", (40, 20), (60 * index, 10, 200))
        return {"image": self.processor(image).pixel_values[0], "text": "abc"[: index + 1]}


def test_a_loader_with_spawned_workers_uses_the_processor() -> None:
    model = tiny("bert", tokenizer="char", token_ids=None, decoder_vocab_size=98)
    rows = Drawn(model.processor)
    options: Any = {"batch_size": 2, "num_workers": 1, "multiprocessing_context": "spawn"}
    loader = torch.utils.data.DataLoader(rows, collate_fn=collated, **options)
    for number, (pixels, texts) in enumerate(loader):
        for row in range(2):
            assert torch.equal(pixels[row], rows[2 * number + row]["image"])
        labels = model.processor(text=texts).labels
        assert model.train()(pixels, labels=labels).loss.isfinite()


def collated(rows: list[dict[str, Any]]) -> tuple[Tensor, list[str]]:
    return torch.stack([row["image"] for row in rows]), [row["text"] for row in rows]


def test_data_parallel_without_devices_is_the_model() -> None:
    model = tiny("bert")
    parallel = DataParallel(model)
    assert torch.equal(parallel(PIXELS, labels=LABELS).loss, model(PIXELS, labels=LABELS).loss)


def test_a_replica_is_the_model() -> None:
    """Such as `torch.nn.parallel.replicate` makes on a GPU: shallow copies, whose tensors are plain attributes."""
    model = tiny("bert")
    model.generate(PIXELS, max_new_tokens=2)  # its weights are laid out for writing
    model.freeze("encoder").train()
    replicas = {module: module._replicate_for_data_parallel() for module in model.modules()}
    for module, replica in replicas.items():
        replica._former_parameters = {}
        for name, child in module.named_children():
            setattr(replica, name, replicas[child])
        for name, parameter in module.named_parameters(recurse=False):
            replica._former_parameters[name] = parameter * 1
            setattr(replica, name, replica._former_parameters[name])
    loss = replicas[model].eval()(PIXELS, labels=LABELS).loss
    assert torch.allclose(loss, model.eval()(PIXELS, labels=LABELS).loss)
    loss.backward()
    assert model.decoder.embedding.weight.grad is not None


def prepared(case: str) -> Any:
    """A model without dropout, of which one part is frozen or not used."""
    model = tiny("bert", decoder_hidden_dropout_prob=0.0, decoder_attention_probs_dropout_prob=0.0)
    if case == "frozen":
        model.freeze("encoder")
    if case == "unused":
        model.spare = nn.Linear(3, 3)
    return model.train()


def train_half(rank: int, cases: list[str], folder: str) -> None:
    """One of two processes: a step on its half of the batch, and its gradients in a file."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    half = slice(2 * rank, 2 * rank + 2)
    for case in cases:
        parallel = DistributedDataParallel(prepared(case), find_unused_parameters=case == "unused")
        for _ in range(2):  # the second step finds fault with parameters that the first has not reduced
            parallel.zero_grad()
            parallel(pixel_values=PIXELS[half], labels=LABELS[half]).loss.backward()
        if rank == 0:
            torch.save(gradients(parallel.module), f"{folder}/{case}")
    torch.distributed.destroy_process_group()


def gradients(model: Any) -> dict[str, Tensor]:
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None and "spare" not in n}


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    cases = ["plain", "frozen", "unused"]
    torch.multiprocessing.spawn(train_half, (cases, str(tmp_path)), nprocs=2)
    for case in cases:
        model = prepared(case)
        model(PIXELS, labels=LABELS).loss.backward()
        found, due = torch.load(tmp_path / case), gradients(model)
        assert found.keys() == due.keys()
        assert any(name.startswith("encoder") for name in due) == (case != "frozen")
        for name, grad in due.items():
            torch.testing.assert_close(found[name], grad, atol=1e-5, rtol=1e-4)


def test_a_model_of_a_pickle_saves_itself(tmp_path: Path) -> None:
    twin = pickled(tiny("bert"))
    twin.save_pretrained(tmp_path)
    assert written(vedcore.load(tmp_path)) == written(twin)
