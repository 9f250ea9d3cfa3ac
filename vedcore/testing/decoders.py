"""Checks of text decoders: sizes, embeddings, records, refusals, ties.

Shape letters: N images, B rows of text, T tokens, L tokens so far, S encoder tokens, V vocabulary size, H heads.
"""

from __future__ import annotations

from typing import Any

import torch

from vedcore.errors import VedcoreError
from vedcore.testing.any_part import dead_parameters
from vedcore.testing.calls import logits
from vedcore.testing.cases import Case
from vedcore.testing.checks import SAME, NotApplicable, all_finite, check, fail, same

__all__: list[str] = []

GROWN = 7
"""Token ids by which the vocabulary grows when it is resized."""


@check("decoder")
@torch.no_grad()
def vocabulary_is_published(case: Case) -> None:
    """``vocab_size`` is the number of scores of a token, and of the rows of the token embedding."""
    decoder = case.build()
    ids = case.ids(decoder)
    expected = (*ids.shape, decoder.vocab_size)
    came = tuple(logits(decoder, ids, case.states(decoder)).shape)
    if came != expected:
        fail(f"logits of {expected}, as vocab_size says", str(came))
    rows = decoder.get_input_embeddings().weight.shape[0]
    if rows != decoder.vocab_size:
        fail(f"a token embedding of {decoder.vocab_size} rows, as vocab_size says", str(rows))


@check("decoder")
@torch.no_grad()
def width_of_the_image_is_published(case: Case) -> None:
    """Encoder states of ``cross_attention_size`` are taken, in any number, and those of another width refused."""
    decoder = case.build()
    ids = case.ids(decoder)
    for tokens in (1, 2, 50):
        all_finite(f"logits for {tokens} encoder tokens", logits(decoder, ids, case.states(decoder, 2, tokens)))
    narrow = case.states(decoder)[..., 1:]
    try:
        logits(decoder, ids, narrow)
    except VedcoreError:
        return
    except Exception as error:
        fail("an error of vedcore for encoder states of another width", type(error).__name__)
    fail("encoder states of another width to be refused", "logits")


@check("decoder")
@torch.no_grad()
def embeddings_stand_for_ids(case: Case) -> None:
    """``inputs_embeds`` of ``embed_tokens`` give the scores of the ids."""
    decoder = case.build()
    ids, states = case.ids(decoder), case.states(decoder)
    given = decoder.embed_tokens(ids)
    came = decoder(inputs_embeds=given, encoder_hidden_states=states).logits
    same("the logits of the ids", logits(decoder, ids, states), came)


@check("decoder")
@torch.no_grad()
def records_of_layers_are_given_when_asked_for(case: Case) -> None:
    """Hidden states and attentions come when they are asked for, in the shapes of the contract, and change nothing."""
    decoder = case.build()
    ids, states = case.ids(decoder), case.states(decoder)
    plain = decoder(input_ids=ids, encoder_hidden_states=states)
    asked = decoder(input_ids=ids, encoder_hidden_states=states, output_attentions=True, output_hidden_states=True)
    (rows, tokens), heads = ids.shape, decoder.num_attention_heads
    shapes = {
        "hidden_states": (rows, tokens, decoder.hidden_size),
        "attentions": (rows, heads, tokens, tokens),
        "cross_attentions": (rows, heads, tokens, states.shape[1]),
    }
    for name, shape in shapes.items():
        if getattr(plain, name) is not None:
            fail(f"no {name} unasked", f"{len(getattr(plain, name))}")
        if name == "attentions" and not getattr(decoder, "records_attention", True):
            continue  # as the decoder declares
        records = getattr(asked, name)
        if not isinstance(records, tuple) or not records:
            fail(f"{name} as a tuple of tensors", type(records).__name__)
        for record in records:
            if tuple(record.shape) != shape:
                fail(f"each of {name} as {shape}", str(tuple(record.shape)))
            if name != "hidden_states":
                same(f"rows of {name} that sum to 1", torch.ones(shape[:-1]), record.sum(-1))
    same("the logits of a call that asks for neither", plain.logits, asked.logits)


@check("decoder")
@torch.no_grad()
def texts_that_do_not_fit_are_refused(case: Case) -> None:
    """Ids outside the vocabulary and more tokens than positions raise an error of vedcore."""
    decoder = case.build()
    ids, states = case.ids(decoder), case.states(decoder)
    wrong = {"an id outside the vocabulary": ids.clone(), "a negative id": ids.clone()}
    wrong["an id outside the vocabulary"][0, 0] = decoder.vocab_size
    wrong["a negative id"][0, 0] = -1
    if decoder.max_positions is not None:
        few = ids[:1, :1].expand(2, decoder.max_positions + 1)
        wrong[f"{decoder.max_positions + 1} tokens for max_positions {decoder.max_positions}"] = few
    for what, text in wrong.items():
        try:
            logits(decoder, text, states)
            came = "logits"
        except VedcoreError:
            continue
        except Exception as error:
            came = type(error).__name__
        fail(f"an error of vedcore for {what}", came)


@check("decoder")
@torch.no_grad()
def every_position_is_taken(case: Case) -> None:
    """A text as long as ``max_positions`` has finite scores."""
    decoder = case.build()
    if decoder.max_positions is None:
        raise NotApplicable("a text may have any number of tokens")
    ids = case.ids(decoder, 1, 1).expand(1, decoder.max_positions)
    all_finite(f"logits for {decoder.max_positions} tokens", logits(decoder, ids, case.states(decoder, 1)))


@check("decoder")
@torch.no_grad()
def resizing_keeps_the_scores(case: Case) -> None:
    """A vocabulary that grows or shrinks keeps the scores of the ids that stay, and its ties; new ones are finite."""
    for step in (GROWN, -GROWN):
        decoder = case.build()
        size = decoder.vocab_size + step
        ids, states = case.ids(decoder) % size, case.states(decoder)
        before, tied = logits(decoder, ids, states), _is_tied(decoder)
        decoder.resize_token_embeddings(size)
        after, kept = logits(decoder, ids, states), min(size, before.shape[-1])
        if decoder.vocab_size != size or after.shape[-1] != size:
            fail(f"{size} scores and vocab_size {size}", f"{after.shape[-1]} and {decoder.vocab_size}")
        if decoder.config.vocab_size != size:
            fail(f"a config of vocab_size {size}", str(decoder.config.vocab_size))
        same("the scores of the ids that stay", before[..., :kept], after[..., :kept], SAME)
        all_finite("scores of new ids", after)
        if _is_tied(decoder) != tied:
            fail("the output layer tied as before", "untied" if tied else "tied")


@check("decoder")
def ties_hold(case: Case) -> None:
    """The output layer is the embedding where the config says so, also in another type, and once it is loaded."""
    decoder = case.build()
    said = bool(getattr(decoder.config, "tie_word_embeddings", _is_tied(decoder)))
    for when in ("as built", "in float64", "loaded"):
        if when == "in float64":
            decoder = decoder.to(torch.float64)
        elif when == "loaded":
            decoder.load_state_dict({n: t.clone() for n, t in decoder.state_dict().items()})
        if _is_tied(decoder) != said:
            fail(f"tie_word_embeddings {said} to hold {when}", "untied" if said else "tied")


@check("decoder")
def fresh_parameters_are_those_of_the_image(case: Case) -> None:
    """``fresh_parameters`` names those, and all those, that a text without an image does not reach."""
    decoder = case.build()
    names = dict(decoder.named_parameters())
    fresh = decoder.fresh_parameters()
    unknown = sorted(fresh - names.keys())
    if unknown:
        fail("names of parameters", ", ".join(unknown[:3]))
    ids = case.ids(decoder)
    try:
        out = logits(decoder, ids)
    except VedcoreError:
        raise NotApplicable("it reads no text without an image") from None
    if not out.requires_grad:
        raise NotApplicable("none of its parameters is trained")
    (out * torch.randn_like(out)).sum().backward()  # type: ignore[no-untyped-call]
    unreached = {n for n, p in names.items() if p.requires_grad and p.grad is None}
    reached = sorted(n for n in fresh if names[n].requires_grad and n not in unreached)
    if reached:
        fail("no fresh parameter to be one that a text alone trains", ", ".join(reached[:3]))
    left = sorted(unreached - fresh - set(dead_parameters(case)))
    if left:
        fail("every parameter of the image to be fresh", f"not among them: {', '.join(left[:3])}")


def _is_tied(decoder: Any) -> bool:
    return decoder.get_output_embeddings().weight is decoder.get_input_embeddings().weight
