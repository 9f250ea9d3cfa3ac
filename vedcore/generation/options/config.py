"""The options of ``generate``, by transformers' names and with its meaning, all checked before work begins.

Options without effect beside the others are named in a warning, as in transformers. Those that contradict each other,
or ask for a search that is not made, are refused by name. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator

from vedcore.config import (
    MAX_VOCAB_SIZE,
    Config,
    TokenId,
    TokenIds,
    check_limit,
    plain,
    schema_error,
    token_id_tuple,
)
from vedcore.errors import ConfigSchemaError, GenerationError, UsageError, did_you_mean, warn_caller
from vedcore.generation.options.neutral import NEUTRAL_VALUES
from vedcore.generation.options.option_rules import RULES, SYNONYMS, Rule, without_idle
from vedcore.generation.options.strategies import Strategy, strategy_for
from vedcore.transformers_names import GENERATING, GENERATION_CONFIG

__all__ = ["GenerationConfig", "Limits"]

MAX_BEAMS = 1024
MAX_LENGTH = 1_000_000
DEFAULT_MAX_LENGTH = 1024
"""Default length of a text where the decoder has no last position."""

MAX_ENTRIES = 1_000_000
"""Entries of ``lexicon``."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[Finite, Field(ge=0, le=1)]
Cutoff = Annotated[Finite, Field(ge=0, lt=1)]
Run = Annotated[tuple[TokenId, ...], Field(min_length=1, max_length=MAX_LENGTH)]
"""Some tokens, one after the other."""
Text = Annotated[str, Field(min_length=1, max_length=10_000)]

LENGTH_FIELDS = (
    "max_new_tokens",
    "max_length",
    "min_new_tokens",
    "min_length",
    "no_repeat_ngram_size",
    "prompt_lookup_num_tokens",
    "max_matching_ngram_size",
    "num_assistant_tokens",
    "repetition_stop",
)


class Limits(NamedTuple):
    """How long the rows may get, prompt included."""

    min_length: int
    """Tokens before which no row ends."""
    max_length: int
    """Tokens at which a row is cut."""
    most: int | None = None
    """Tokens for which the decoder has positions; None for any number."""


class GenerationConfig(Config):
    """How text is written; a model keeps one as its defaults, and a call changes what it names.

    Ids may be tensors or arrays; a single id may stand for a tuple of one.

    Raises:
        UsageError: an unknown option, or options that contradict each other, all of them named.
        ConfigSchemaError: a value of a wrong type or out of bounds.
        ConfigLimitError: more beams, returned sequences or tokens than is sane.

    Warns:
        UserWarning: options without effect beside the others, all of them named.
    """

    elsewhere = GENERATION_CONFIG
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
    top_p: Share = 1.0
    """Draw only among the most probable tokens that together have this probability."""
    min_p: Share = 0.0
    """Draw only among the tokens that have this share of the most probable one's probability; 0 is off."""
    typical_p: Annotated[Finite, Field(gt=0, le=1)] = 1.0
    """Draw only among the tokens closest to the expected surprise that together have this probability."""
    epsilon_cutoff: Cutoff = 0.0
    """Draw only among tokens of at least this probability; 0 is off."""
    eta_cutoff: Cutoff = 0.0
    """Draw only among tokens of at least this probability, or less where the distribution is flat; 0 is off."""
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None
    """Seed of the draws: the same stream as after ``torch.manual_seed``. None draws from torch's global generator."""
    num_beams: Annotated[int, Field(ge=1)] = 1
    """Hypotheses followed at once for each image; 1 is greedy search or sampling."""
    early_stopping: bool | Literal["never"] = False
    """When an image's beam search ends: ``True`` once ``num_beams`` texts are complete, ``False`` once a better one is
    unlikely, ``"never"`` only once a better one is impossible."""
    length_penalty: Annotated[Finite, Field(ge=-20, le=20)] = 1.0
    """A beam's score is its log-probability over its new length to this power; above 0 favours long texts."""
    num_beam_groups: Annotated[int, Field(ge=1)] = 1
    """Groups, of ``num_beams / num_beam_groups`` beams each, that are to write different texts."""
    diversity_penalty: Annotated[Finite, Field(ge=0)] = 0.0
    """Subtracted from a token's score for each earlier group's beam that writes it at the same step."""
    force_words_ids: tuple[Run | Annotated[tuple[Run, ...], Field(min_length=1)], ...] = ()
    """Runs of tokens that a text must hold; where an entry is several runs, one of them. Needs beams."""
    penalty_alpha: Share = 0.0
    """Contrastive search among the ``top_k`` best tokens: weight of a token's likeness to the text so far, against its
    probability; 0 is off."""
    num_return_sequences: Annotated[int, Field(ge=1)] = 1
    """Texts to return for each image."""
    repetition_penalty: Annotated[Finite, Field(gt=0)] = 1.0
    """Above 1 makes tokens that the row already holds less probable."""
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] = 0
    """No run of that many tokens occurs twice in a row; 0 is off."""
    bad_words_ids: tuple[Run, ...] = ()
    """Runs of tokens that are never written; a single end id among them is ignored."""
    sequence_bias: tuple[tuple[Run, Finite], ...] = ()
    """Runs of tokens, each with a number to add to the score of its last token where that would complete it. Written as
    ``{(1, 2): -3.0}`` or ``[[[1, 2], -3.0]]``; of equal runs the last counts."""
    suppress_tokens: tuple[TokenId, ...] = ()
    """Tokens that are never written."""
    begin_suppress_tokens: tuple[TokenId, ...] = ()
    """Tokens that are not written first, or, with ``forced_bos_token_id`` in force, second."""
    forced_bos_token_id: TokenId | None = None
    """First token after a prompt of one token."""
    forced_eos_token_id: TokenId | tuple[TokenId, ...] | None = None
    """Last token of a row that reaches its greatest length; greedy search takes the lowest of several."""
    exponential_decay_length_penalty: (
        tuple[Annotated[int, Field(ge=0)], Annotated[Finite, Field(gt=0, le=1000)]] | None
    ) = None
    """``(start, factor)``: after ``start`` new tokens, end ids gain ``factor ** (tokens since) - 1`` times the size of
    their score."""
    remove_invalid_values: bool = False
    """Put 0 for NaN scores and the greatest finite numbers for infinite ones instead of raising."""
    renormalize_logits: bool = False
    """Normalise the scores to log-probabilities after all other processors."""
    allowed_chars: Annotated[str, Field(min_length=1, max_length=MAX_VOCAB_SIZE)] | None = None
    """Characters that a text may consist of."""
    pattern: Text | None = None
    """Regular expression that a whole text matches."""
    lexicon: Annotated[tuple[Text, ...], Field(max_length=MAX_ENTRIES)] = ()
    """Words or phrases, of which a whole text is one."""
    max_time: Annotated[Finite, Field(gt=0)] | None = None
    """Seconds after which no further token is begun."""
    stop_strings: Annotated[tuple[Text, ...], Field(max_length=1024)] = ()
    """Strings at which a row ends, one or several."""
    repetition_stop: Annotated[int, Field(ge=0)] = 0
    """A row ends once its last tokens are one run of tokens that many times over; 0 is off."""
    eos_token_id: TokenId | tuple[TokenId, ...] | None = None
    """In place of the model's end ids; ``()`` means that nothing ends a row but its length."""
    pad_token_id: TokenId | None = None
    """In place of the model's pad id."""
    decoder_start_token_id: TokenId | Run | None = None
    """In place of the model's start id; several are one for each image."""
    prompt_lookup_num_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most tokens to guess at once from earlier parts of the row; the text stays the same."""
    max_matching_ngram_size: Annotated[int, Field(ge=1)] = 2
    """Most tokens at the end of a row to look up for ``prompt_lookup_num_tokens``."""
    num_assistant_tokens: Annotated[int, Field(ge=1)] = 20
    """Most tokens that a draft model guesses at once."""
    num_assistant_tokens_schedule: Literal["constant", "heuristic", "heuristic_transient"] = "constant"
    """Whether that number grows by 2 when all guesses were right and shrinks by 1 when not, and whether it is kept
    (``"heuristic"``) or not (``"heuristic_transient"``) for the next call."""
    assistant_confidence_threshold: Share = 0.4
    """A draft model stops guessing at a token less probable than this; 0 is off."""
    draft: Literal["int8"] | None = None
    """Guess tokens with an int8 copy of the decoder's linear layers, made once, where that pays; the text stays the
    same."""
    use_cache: bool = True
    """Keep keys and values between the steps; off computes all tokens anew: the same text, slower."""
    compile: bool = False
    """Run the decoder's step through ``torch.compile``: slow to begin with, and the same text."""
    return_dict_in_generate: bool = False
    """Return a ``GenerateOutput`` with scores and finish reasons instead of the ids alone."""
    output_scores: bool = False
    """Put the scores of each step, as the processors leave them, into the ``GenerateOutput``. Where tokens are guessed
    (assisted decoding), those of a row that has ended are zeros, and so are its logits."""
    output_logits: bool = False
    """Put the logits of each step, as the decoder gives them, into the ``GenerateOutput``."""
    output_attentions: bool = False
    """Put the attentions of each step into the ``GenerateOutput``."""
    output_hidden_states: bool = False
    """Put the hidden states of each step into the ``GenerateOutput``."""

    def __init__(self, **options: Any) -> None:
        _check_names(options)
        try:
            super().__init__(**options)
        except ValidationError as error:
            raise schema_error(error, None, "") from None
        for rule, shown in self._broken_rules():  # here, as pydantic may validate twice
            warn_caller(f"{shown} {rule.because}; {rule.hint}")

    @model_validator(mode="before")
    @classmethod
    def _none_is_off(cls, data: object) -> object:
        if not isinstance(data, Mapping):
            return data
        data = dict(data)
        if isinstance(bias := data.get("sequence_bias"), Mapping):
            data["sequence_bias"] = tuple(bias.items())
        if isinstance(strings := data.get("stop_strings"), str):
            data["stop_strings"] = (strings,)
        data = {name: plain(value) for name, value in data.items()}
        for name in ("suppress_tokens", "begin_suppress_tokens"):
            if type(data.get(name)) is int:
                data[name] = (data[name],)
        return {k: NEUTRAL_VALUES[k] if v is None and k in NEUTRAL_VALUES else v for k, v in data.items()}

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("num_beams", "num_return_sequences"):
            check_limit(getattr(self, name), MAX_BEAMS, name, "the count")
        for name in LENGTH_FIELDS:
            check_limit(getattr(self, name) or 0, MAX_LENGTH, name, "the length")
        for low, high in (("min_new_tokens", "max_new_tokens"), ("min_length", "max_length")):
            least, most = self._in_force(low), self._in_force(high)
            if least and most and least > most:
                raise UsageError(f"{least} is above {high}={most}", field=low, hint="lower the one or raise the other")
        for rule, shown in self._broken_rules():
            if not rule.idle:
                raise UsageError(f"{shown} {rule.because}", field=shown.partition("=")[0], hint=rule.hint)
        self._check_searches()
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            forced = token_id_tuple(getattr(self, name))
            if forced and set(forced) <= set(self.suppress_tokens):
                message = f"{getattr(self, name)} is also in suppress_tokens"
                raise UsageError(message, field=name, hint="take it out of one of them")
        return self

    def _broken_rules(self) -> Iterator[tuple[Rule, str]]:
        """The rules that do not hold, each with the options that it is about."""
        options = dict(self)
        for rule in RULES:
            if rule.holds(options) and (names := [name for name in rule.names if self.asks_for(name)]):
                yield rule, ", ".join(f"{name}={_shown(getattr(self, name))}" for name in names)

    def _in_force(self, name: str) -> int | None:
        """A length; None where its synonym takes its place."""
        preferred = next((new for new, whole in SYNONYMS if whole == name), None)
        value: int | None = getattr(self, name)
        return None if preferred and getattr(self, preferred) is not None else value

    def _check_searches(self) -> None:
        """Check numbers that a strategy needs in proportion to each other."""
        most = self.num_beams if self.num_beams > 1 or not self.do_sample else MAX_BEAMS
        if self.num_return_sequences > most:
            if self.penalty_alpha:
                hint = "lower it"
            elif self.num_beams > 1:
                hint = "lower it, or raise num_beams"
            elif self.prompt_lookup_num_tokens:
                hint = "lower it, or pass do_sample=True"
            else:
                hint = "pass do_sample=True, or raise num_beams"
            message = f"{self.num_return_sequences} is above num_beams={self.num_beams}"
            raise UsageError(message, field="num_return_sequences", hint=hint)
        if self.num_beams % self.num_beam_groups:
            message = f"{self.num_beam_groups} groups do not divide num_beams={self.num_beams} evenly"
            raise UsageError(message, field="num_beam_groups", hint="make num_beams a multiple of it")
        if self.num_beam_groups > 1 and not self.diversity_penalty:
            message = f"{self.num_beam_groups} groups with diversity_penalty=0.0 write the same"
            raise UsageError(message, field="num_beam_groups", hint="pass diversity_penalty=1.0 or so")
        if self.penalty_alpha and self.top_k <= 1:
            message = f"{self.penalty_alpha} with top_k={self.top_k} has nothing to choose from"
            raise UsageError(message, field="penalty_alpha", hint="pass top_k=4 or so")
        if self.repetition_stop == 1:
            message = "every row is one run of its tokens, so 1 ends it at once"
            raise UsageError(message, field="repetition_stop", hint="pass 2 or more, or 0 to leave it off")

    def asks_for(self, name: str) -> bool:
        """Whether an option is set so that it does something."""
        value = getattr(self, name)
        nothing = name == "min_length" and not value
        return value not in (type(self).model_fields[name].default, NEUTRAL_VALUES.get(name)) and not nothing

    def _instead(self, name: str, value: object) -> str:
        if name in type(self).model_fields:
            given = f"{name}={_shown(value)}"
            return f"model.generation_config = model.generation_config.with_options({given})"
        return did_you_mean(name, type(self).model_fields) or "it is not an option of generate"

    def with_options(self, **options: Any) -> Self:
        """These options with some replaced, as a call does; kept options that contradict those of the call are dropped.

        A kept ``max_length`` gives way to a given ``max_new_tokens``, kept sampling options to ``do_sample=False``,
        kept beam options to ``num_beams=1``, a kept ``penalty_alpha`` to ``num_beams=2``.
        ``eos_token_id=None`` means, as in transformers, that nothing ends a row; None for a switch or a number that
        has no such value leaves it as it is.
        """
        _check_names(options)
        fields = type(self).model_fields
        options = {
            name: value
            for name, value in options.items()
            if value is not None or name in NEUTRAL_VALUES or not isinstance(fields[name].default, (bool, int, float))
        }
        if "eos_token_id" in options and options["eos_token_id"] is None:
            options["eos_token_id"] = ()
        kept = self.model_dump(exclude_unset=True)
        for pair in SYNONYMS:
            if any(options.get(name) is not None for name in pair):
                kept = {k: v for k, v in kept.items() if k not in pair}
        return self.parse({**without_idle(kept, options), **options})

    _from_model_config: ClassVar[bool] = False

    def _get_default_generation_params(self) -> dict[str, Any]:
        """Lengths to which Seq2SeqTrainer pads predictions where there are none here; they bound no text."""
        return {"max_length": 20}

    def update(self, *, defaults_only: bool = False, **options: Any) -> None:
        """Fill in options that are None, as Seq2SeqTrainer does with the copy that ``model.generation_config`` gives.

        Raises:
            UsageError: without ``defaults_only=True``.
        """
        if not defaults_only:
            name, value = next(iter(options.items()), ("num_beams", 4))
            raise UsageError("options do not change in place", field=name, hint=self._instead(name, value))
        self.__dict__.update({name: value for name, value in options.items() if getattr(self, name) is None})

    def strategy(self, assisted: bool = False) -> Strategy:
        """The way of searching that these options ask for; ``assisted`` where a draft model guesses."""
        return strategy_for(dict(self), assisted)

    @property
    def rows_per_prompt(self) -> int:
        """Rows of text that grow for each image: beams, or texts to return."""
        return self.num_beams if self.num_beams > 1 else self.num_return_sequences

    @property
    def forced_words(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """``force_words_ids``, each entry as the runs of which a text must hold one."""
        return tuple(word if isinstance(word[0], tuple) else (word,) for word in self.force_words_ids)

    def start_ids(self, start: int, images: int) -> tuple[int, ...]:
        """The id that each image's text starts with: ``start`` for all, where the options do not have one for each.

        Raises:
            UsageError: another number of ids than of images.
        """
        if not isinstance(self.decoder_start_token_id, tuple):
            return (start,) * images
        if len(self.decoder_start_token_id) != images:
            raise UsageError(
                f"{len(self.decoder_start_token_id)} ids for {images} images",
                field="decoder_start_token_id",
                hint="give one id for all, or one for each",
            )
        return self.decoder_start_token_id

    def token_ids(self, base: TokenIds, vocab_size: int) -> TokenIds:
        """The model's token ids with these options' own in their place; without a pad id the first end id pads.

        Of several start ids the first is taken; ``start_ids`` gives them all.

        Raises:
            ConfigSchemaError: an id that the vocabulary does not have, in any of the options.
            UsageError: ``exponential_decay_length_penalty`` where no end id is there to gain.
        """
        eos = base.eos if self.eos_token_id is None else token_id_tuple(self.eos_token_id)
        pad = base.pad if self.pad_token_id is None else self.pad_token_id
        starts = token_id_tuple(self.decoder_start_token_id)
        start = starts[0] if starts else base.start
        ids = TokenIds(start=start, eos=eos, pad=eos[0] if pad is None and eos else pad)
        ids.check(vocab_size, built=True)
        if self.exponential_decay_length_penalty is not None and not eos:
            hint = "give eos_token_id, or leave it out"
            raise UsageError("needs an end id", field="exponential_decay_length_penalty", hint=hint)
        for name, named in self.named_ids().items():
            if (largest := max(named, default=0)) >= vocab_size:
                message = f"id {largest} is not below vocab_size {vocab_size}"
                hint = f"leave it out, or first call model.resize_vocabulary({largest + 1})"
                raise ConfigSchemaError(message, field=name, hint=hint)
        return ids

    def named_ids(self) -> dict[str, tuple[int, ...]]:
        """The options that hold token ids, each with all of its ids."""
        return {
            **{name: token_id_tuple(getattr(self, name)) for name in ("decoder_start_token_id", "eos_token_id")},
            "pad_token_id": token_id_tuple(self.pad_token_id),
            "bad_words_ids": tuple(chain.from_iterable(self.bad_words_ids)),
            "sequence_bias": tuple(chain.from_iterable(run for run, _ in self.sequence_bias)),
            "force_words_ids": tuple(chain.from_iterable(chain.from_iterable(self.forced_words))),
            "suppress_tokens": self.suppress_tokens,
            "begin_suppress_tokens": self.begin_suppress_tokens,
            "forced_bos_token_id": token_id_tuple(self.forced_bos_token_id),
            "forced_eos_token_id": token_id_tuple(self.forced_eos_token_id),
        }

    def limits(self, prompt_length: int, max_positions: int | None) -> Limits:
        """How long the rows may get.

        Args:
            prompt_length: tokens of the prompt, start id included.
            max_positions: positions of the decoder; None where it has no last one. The last token written is not read
                again, so a row may have one token more, but for contrastive search.

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
            positions = max_positions or prompt_length + DEFAULT_MAX_LENGTH
            option, longest = "the default length", max(positions, prompt_length + 1)
        new = self.min_new_tokens
        shortest = self.min_length or 0 if new is None else prompt_length + new
        after = f"after a prompt of {prompt_length} tokens"
        if longest <= prompt_length:
            raise UsageError(f"{option} leaves no room {after}", hint="pass max_new_tokens instead")
        unread = 0 if self.strategy().reads_last_token else 1
        most = None if max_positions is None else max_positions + unread
        if most is not None and longest > most:
            raise UsageError(
                f"{option} {after} needs {longest - unread} positions, and the decoder has {max_positions}",
                hint=f"pass max_new_tokens={most - prompt_length} or less"
                if most > prompt_length
                else "cut the prompt",
            )
        if shortest > longest:
            name = "min_length" if new is None else "min_new_tokens"
            message = f"{name}={getattr(self, name)} {after} is above {option}"
            raise UsageError(message, hint="lower the one or raise the other")
        return Limits(shortest, longest, most)


def _check_names(options: Mapping[str, Any]) -> None:
    valid = GenerationConfig.model_fields
    for name in options:
        if name not in valid:
            known = f"options: {', '.join(valid)}"
            hint = GENERATING.get(name) or did_you_mean(name, valid) or known
            raise UsageError("unknown option", field=name, hint=hint, details=known)


def _shown(value: object) -> str:
    return text if len(text := repr(value)) <= 40 else text[:39] + "…"
