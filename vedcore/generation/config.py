"""The options of ``generate``, by transformers' names and with its meaning, all checked before work begins.

Where transformers warns and goes on, or quietly ignores an option, the options are refused together, by name.
Needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator

from vedcore.config import MAX_VOCAB_SIZE, Config, TokenId, TokenIds, check_limit, schema_error, token_id_tuple
from vedcore.errors import ConfigSchemaError, GenerationError, UsageError, did_you_mean

__all__ = ["GenerationConfig", "Limits"]

MAX_BEAMS = 1024
MAX_LENGTH = 1_000_000
UNBOUNDED_LENGTH = 1024
"""Default length of a text where the decoder has no last position."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
OFF: dict[str, Any] = {
    "temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0,
    "bad_words_ids": (), "suppress_tokens": (), "begin_suppress_tokens": (),
}  # fmt: skip
"""Values at which an option changes nothing; None means the same."""
SAMPLING = ("temperature", "top_k", "top_p", "seed")
BEAMS = ("early_stopping", "length_penalty")
EITHER = (("max_new_tokens", "max_length"), ("min_new_tokens", "min_length"))
"""Two words for one thing, of which a call may use one."""


class Limits(NamedTuple):
    """How long the rows may get, prompt included."""

    min_length: int
    """Tokens before which no row ends."""
    max_length: int
    """Tokens at which a row is cut."""


class GenerationConfig(Config):
    """How text is written; a model keeps one as its defaults, and a call changes what it names.

    Raises:
        UsageError: an unknown option, or options that contradict each other, all of them named.
        ConfigSchemaError: a value of a wrong type or out of bounds.
        ConfigLimitError: more beams, returned sequences or tokens than is sane.
    """

    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most tokens to write after the prompt."""
    max_length: Annotated[int, Field(ge=1)] | None = None
    """Most tokens of a row, prompt included. With neither, a row may fill the decoder's positions."""
    min_new_tokens: Annotated[int, Field(ge=0)] | None = None
    """Tokens to write before a row may end."""
    min_length: Annotated[int, Field(ge=0)] | None = None
    """Tokens a row must have before it may end, prompt included."""
    do_sample: bool = False
    """Draw each token from the distribution instead of taking the most probable."""
    temperature: Annotated[Finite, Field(gt=0)] = 1.0
    """Divides the logits: below 1 sharpens the distribution, above 1 flattens it."""
    top_k: Annotated[int, Field(ge=0, le=MAX_VOCAB_SIZE)] = 50
    """Draw only among that many most probable tokens; 0 means all. transformers' default, used only in sampling."""
    top_p: Annotated[Finite, Field(ge=0, le=1)] = 1.0
    """Draw only among the most probable tokens that together have this probability."""
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None
    """Seed of the draws: the same stream as after ``torch.manual_seed``. None draws from torch's global generator."""
    num_beams: Annotated[int, Field(ge=1)] = 1
    """Texts that are followed at once for each image; 1 is no beam search."""
    early_stopping: bool | Literal["never"] = False
    """When an image's beam search ends: ``True`` once ``num_beams`` texts are complete, ``False`` once a better one is
    unlikely, ``"never"`` only once a better one is impossible."""
    length_penalty: Annotated[Finite, Field(ge=-20, le=20)] = 1.0
    """A beam's score is its log-probability over its new length to this power; above 0 favours long texts."""
    num_return_sequences: Annotated[int, Field(ge=1)] = 1
    """Texts to return for each image."""
    repetition_penalty: Annotated[Finite, Field(gt=0)] = 1.0
    """Above 1 makes tokens that the row already holds less probable."""
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] = 0
    """No run of that many tokens occurs twice in a row; 0 is off."""
    bad_words_ids: tuple[Annotated[tuple[TokenId, ...], Field(min_length=1)], ...] = ()
    """Runs of tokens that are never written; one that is a single end id is passed over."""
    suppress_tokens: tuple[TokenId, ...] = ()
    """Tokens that are never written."""
    begin_suppress_tokens: tuple[TokenId, ...] = ()
    """Tokens that are not written first, or, with ``forced_bos_token_id`` in force, second."""
    forced_bos_token_id: TokenId | None = None
    """What is written right after a prompt of one token."""
    forced_eos_token_id: TokenId | tuple[TokenId, ...] | None = None
    """What a row that reaches its greatest length ends with; greedy search takes the lowest of several."""
    eos_token_id: TokenId | tuple[TokenId, ...] | None = None
    """In place of the model's end ids; ``()`` means that nothing ends a row but its length."""
    pad_token_id: TokenId | None = None
    """In place of the model's pad id."""
    decoder_start_token_id: TokenId | None = None
    """In place of the model's start id."""
    use_cache: bool = True
    """Keep keys and values between the steps; off computes every token anew, which is slow and gives the same."""
    return_dict_in_generate: bool = False
    """Return a ``GenerateOutput`` with scores and finish reasons instead of the ids alone."""

    def __init__(self, **options: Any) -> None:
        _check_names(options)
        try:
            super().__init__(**options)
        except ValidationError as error:
            raise schema_error(error, None, "") from None

    @model_validator(mode="before")
    @classmethod
    def _none_is_off(cls, data: object) -> object:
        if not isinstance(data, Mapping):
            return data
        data = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        if isinstance(words := data.get("bad_words_ids"), tuple):
            data["bad_words_ids"] = tuple(tuple(word) if isinstance(word, list) else word for word in words)
        return {k: OFF[k] if v is None and k in OFF else v for k, v in data.items()}

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("num_beams", "num_return_sequences"):
            check_limit(getattr(self, name), MAX_BEAMS, name, "the count")
        for name in ("max_new_tokens", "max_length", "min_new_tokens", "min_length", "no_repeat_ngram_size"):
            check_limit(getattr(self, name) or 0, MAX_LENGTH, name, "the length")
        for one, other in EITHER:
            if getattr(self, one) and getattr(self, other):
                message = f"{getattr(self, one)} contradicts {other}={getattr(self, other)}"
                raise UsageError(message, field=one, hint="give one of them")
        for low, high in (("min_new_tokens", "max_new_tokens"), ("min_length", "max_length")):
            least, most = getattr(self, low), getattr(self, high)
            if least and most and least > most:
                raise UsageError(f"{least} is above {high}={most}", field=low, hint="lower the one or raise the other")
        if not self.do_sample:
            self._check_idle(SAMPLING, "do_sample=False", "pass do_sample=True, or leave them out")
        if self.num_beams == 1:
            self._check_idle(BEAMS, "num_beams=1", "pass num_beams=2 or more, or leave them out")
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            forced = token_id_tuple(getattr(self, name))
            if forced and set(forced) <= set(self.suppress_tokens):
                message = f"{getattr(self, name)} is also in suppress_tokens"
                raise UsageError(message, field=name, hint="take it out of one of them")
        most = self.num_beams if self.num_beams > 1 or not self.do_sample else MAX_BEAMS
        if self.num_return_sequences > most:
            raise UsageError(
                f"{self.num_return_sequences} is above num_beams={self.num_beams}",
                field="num_return_sequences",
                hint="raise num_beams" + ("" if self.do_sample else ", or pass do_sample=True"),
            )
        return self

    def _check_idle(self, names: tuple[str, ...], because: str, hint: str) -> None:
        harmless = {name: (field.default, OFF.get(name)) for name, field in type(self).model_fields.items()}
        idle = [name for name in names if getattr(self, name) not in harmless[name]]
        if idle:
            shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in idle)
            raise UsageError(f"{shown} would do nothing with {because}", field=idle[0], hint=hint)

    def with_options(self, **options: Any) -> Self:
        """These options with some replaced, as a call does; the call wins over what it leaves no use for.

        A kept ``max_length`` gives way to a given ``max_new_tokens``, kept sampling options to ``do_sample=False``,
        kept beam options to ``num_beams=1``. ``eos_token_id=None`` means, as in transformers, that nothing ends a row.
        """
        _check_names(options)
        if "eos_token_id" in options and options["eos_token_id"] is None:
            options["eos_token_id"] = ()
        kept = self.model_dump(exclude_unset=True)
        for pair in EITHER:
            if any(options.get(name) is not None for name in pair):
                kept = {k: v for k, v in kept.items() if k not in pair}
        if not options.get("do_sample", self.do_sample):
            kept = {k: v for k, v in kept.items() if k not in SAMPLING}
        if options.get("num_beams", self.num_beams) == 1:
            kept = {k: v for k, v in kept.items() if k not in BEAMS}
        return self.parse({**kept, **options})

    def token_ids(self, base: TokenIds, vocab_size: int) -> TokenIds:
        """The model's token ids with these options' own in their place; without a pad id the first end id pads.

        Raises:
            ConfigSchemaError: an id that the vocabulary does not have, in any of the options.
        """
        eos = base.eos if self.eos_token_id is None else token_id_tuple(self.eos_token_id)
        pad = base.pad if self.pad_token_id is None else self.pad_token_id
        start = base.start if self.decoder_start_token_id is None else self.decoder_start_token_id
        ids = TokenIds(start=start, eos=eos, pad=eos[0] if pad is None and eos else pad)
        ids.check(vocab_size)
        for name, named in (
            ("bad_words_ids", chain.from_iterable(self.bad_words_ids)),
            ("suppress_tokens", self.suppress_tokens),
            ("begin_suppress_tokens", self.begin_suppress_tokens),
            ("forced_bos_token_id", token_id_tuple(self.forced_bos_token_id)),
            ("forced_eos_token_id", token_id_tuple(self.forced_eos_token_id)),
        ):
            if (largest := max(named, default=0)) >= vocab_size:
                message = f"id {largest} is not below vocab_size {vocab_size}"
                raise ConfigSchemaError(message, field=name, hint="leave it out")
        return ids

    def limits(self, prompt_length: int, max_positions: int | None) -> Limits:
        """How long the rows may get.

        Args:
            prompt_length: tokens of the prompt, start id included.
            max_positions: positions of the decoder; None where it has no last one. The last token written is not read
                again, so a row may have one token more.

        Raises:
            GenerationError: a prompt that leaves no position.
            UsageError: a length that the prompt or the positions rule out.
        """
        if max_positions is not None and prompt_length > max_positions:
            raise GenerationError(
                f"a prompt of {prompt_length} tokens, but the decoder has {max_positions} positions",
                field="decoder_input_ids",
                hint="cut the prompt",
            )
        if self.max_new_tokens is not None:
            option, longest = f"max_new_tokens={self.max_new_tokens}", prompt_length + self.max_new_tokens
        elif self.max_length is not None:
            option, longest = f"max_length={self.max_length}", self.max_length
        else:
            positions = max_positions or prompt_length + UNBOUNDED_LENGTH
            option, longest = "the default length", max(positions, prompt_length + 1)
        shortest = prompt_length + self.min_new_tokens if self.min_new_tokens else self.min_length or 0
        after = f"after a prompt of {prompt_length} tokens"
        if longest <= prompt_length:
            raise UsageError(f"{option} leaves no room {after}", hint="pass max_new_tokens instead")
        if max_positions is not None and longest > max_positions + 1:
            raise UsageError(
                f"{option} {after} needs {longest - 1} positions, and the decoder has {max_positions}",
                hint=f"pass max_new_tokens={max_positions + 1 - prompt_length} or less",
            )
        if shortest > longest:
            name = "min_new_tokens" if self.min_new_tokens else "min_length"
            message = f"{name}={getattr(self, name)} {after} is above {option}"
            raise UsageError(message, hint="lower the one or raise the other")
        return Limits(shortest, longest)


def _check_names(options: Mapping[str, Any]) -> None:
    valid = GenerationConfig.model_fields
    for name in options:
        if name not in valid:
            known = f"options: {', '.join(valid)}"
            raise UsageError("unknown option", field=name, hint=did_you_mean(name, valid) or known, details=known)
