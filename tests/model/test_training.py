"""Training: the loss, frozen parts, gradient checkpointing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vedcore
from tests.model.tiny import IMAGE, NO_DROPOUT, PAD, START, ids, some_labels, tiny
from vedcore.loss import shift_tokens_right

# -- the loss ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_the_loss_is_plain_cross_entropy(model: Any, pixels: Tensor, smoothing: float) -> None:
    labels = some_labels()
    out = model(pixels, labels=labels, label_smoothing=smoothing)
    expected = nn.CrossEntropyLoss(label_smoothing=smoothing)(out.logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(out.loss, expected)


def test_losses_of_parts_of_a_batch_add_up(model: Any) -> None:
    images, labels = torch.randn(6, 3, *IMAGE), some_labels(6)
    items = int((labels != -100).sum())
    whole = model(images, labels=labels)
    for count in (items, torch.tensor(items)):
        parts = [
            model(images[at : at + 2], labels=labels[at : at + 2], num_items_in_batch=count).loss for at in (0, 2, 4)
        ]
        torch.testing.assert_close(sum(parts), whole.loss)


def test_given_decoder_inputs_are_not_shifted(model: Any, pixels: Tensor) -> None:
    labels = some_labels()
    shifted = shift_tokens_right(labels, PAD, START)
    a, b = model(pixels, labels=labels), model(pixels, labels=labels, decoder_input_ids=shifted)
    torch.testing.assert_close(a.loss, b.loss)
    c = model(pixels, labels=labels, decoder_inputs_embeds=model.decoder.embed_tokens(shifted))
    torch.testing.assert_close(a.loss, c.loss)


def test_the_loss_is_in_float32_whatever_the_model(pixels: Tensor) -> None:
    model = tiny("bert", dtype="bfloat16")
    out = model(pixels, labels=some_labels())
    assert (model.dtype, out.logits.dtype, out.loss.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    out.loss.backward()
    assert out.loss.isfinite()
    assert model.generate(pixels, max_new_tokens=4).shape[0] == 3


# -- freezing and checkpointing ---------------------------------------------------------------------------------


def graph_nodes(tensor: Tensor) -> int:
    seen, todo = set(), [tensor.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [parent for parent, _ in node.next_functions]
    return len(seen)


def test_a_frozen_encoder_keeps_no_graph(model: Any, pixels: Tensor) -> None:
    free = model.train()(pixels, labels=ids())
    assert model.freeze("encoder") is model
    out = model(pixels, labels=ids())
    assert not out.encoder_last_hidden_state.requires_grad
    assert out.encoder_last_hidden_state.grad_fn is None
    assert graph_nodes(out.loss) < graph_nodes(free.loss) - 20
    out.loss.backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all(p.grad is not None and p.grad.any() for p in model.projector.parameters())
    assert not any(m.training for m in model.encoder.modules())
    model.eval().train()
    assert not any(m.training for m in model.encoder.modules())
    assert all(m.training for m in model.decoder.modules())
    assert all(m.training for m in copy.deepcopy(model).train().decoder.modules())
    assert not any(m.training for m in copy.deepcopy(model).train().encoder.modules())


def test_unfrozen_parts_train_again(model: Any, pixels: Tensor) -> None:
    model.freeze("encoder").freeze("projector").train()
    model.unfreeze("encoder").unfreeze("projector")
    assert all(m.training for m in model.modules())
    model(pixels, labels=ids()).loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_frozen_decoder_passes_gradients_on(model: Any, pixels: Tensor) -> None:
    model.freeze("decoder").train()(pixels, labels=ids()).loss.backward()
    assert all(p.grad is None for p in model.decoder.parameters())
    assert model.projector.proj.weight.grad.any()
    assert model.encoder.model.patch_embed.proj.weight.grad.any()


def test_a_part_of_a_frozen_encoder_may_be_trained(model: Any, pixels: Tensor) -> None:
    model.freeze("encoder").encoder.model.norm.requires_grad_(True)
    model(pixels, labels=ids()).loss.backward()
    learned = [name for name, p in model.encoder.named_parameters() if p.grad is not None]
    assert learned == ["model.norm.weight", "model.norm.bias"]


def test_there_are_three_parts(model: Any) -> None:
    with pytest.raises(vedcore.UsageError, match="encoder, projector or decoder"):
        model.freeze("head")


@pytest.mark.parametrize("frozen", [False, True])
def test_gradient_checkpointing_changes_nothing_but_memory(pixels: Tensor, frozen: bool) -> None:
    grads, losses, saved = [], [], []
    for enable in (False, True):
        model = tiny("gpt2", **{f"decoder_{k}": v for k, v in NO_DROPOUT.items()}).train()
        if frozen:
            model.freeze("encoder")
        if enable:
            model.gradient_checkpointing_enable()
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            out = model(pixels, labels=some_labels())
        out.loss.backward()
        losses.append(out.loss)
        saved.append(sum(sizes))
        grads.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(grads[0], grads[1])
    assert saved[1] < saved[0] * 0.7
    with pytest.warns(UserWarning, match="use_cache"):
        model(pixels, decoder_input_ids=ids(), use_cache=True)
    assert model.generate(pixels, max_new_tokens=3).shape[0] == 3
