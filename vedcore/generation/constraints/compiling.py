"""From an alphabet, a regular expression or a list of words to an automaton over tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from vedcore.errors import UsageError
from vedcore.generation.constraints.char_classes import CODE_POINTS
from vedcore.generation.constraints.regex import CharacterAutomaton, before_replacement, compile_pattern
from vedcore.generation.constraints.symbols import dense, of_characters, of_words
from vedcore.generation.constraints.token_automaton import TokenAutomaton, over_tokens
from vedcore.generation.constraints.token_text import TokenTexts, token_texts

__all__ = ["compile_constraint"]

Ints = NDArray[np.int64]


def compile_constraint(
    tokenizer: Tokenizer,
    vocab_size: int,
    *,
    eos: tuple[int, ...],
    allowed_chars: str | None = None,
    pattern: str | None = None,
    lexicon: Sequence[str] | None = None,
) -> TokenAutomaton:
    """The automaton of the texts that keep to all the rules given, one at least.

    Args:
        tokenizer: decodes the new tokens, without special ones, to the text.
        vocab_size: of the model, at least that of the tokenizer; ids that the tokenizer lacks are never allowed.
        eos: ids that end a text.
        allowed_chars: the only characters that may occur; an empty text keeps to it.
        pattern: regular expression that the whole text matches, as in Python's ``re.fullmatch``.
        lexicon: words or phrases, of which the whole text is one; those that break the other rules are left out.

    Raises:
        UsageError: no end id, a wrong regular expression, entries that the tokenizer cannot write, rules that no text
            of the tokenizer keeps to.
        ConfigLimitError: a rule that takes too many states.
        TokenizerError: a tokenizer under which a token's text depends on its neighbours.
    """
    options = {"allowed_chars": allowed_chars, "pattern": pattern, "lexicon": lexicon}
    names = [name for name, value in options.items() if value is not None]
    name = " and ".join(names)
    if not eos:
        raise UsageError("a rule needs an id that ends the text", field=name, hint="pass eos_token_id=")
    texts = token_texts(tokenizer, vocab_size)
    fragments = texts.has_fragments
    apart = "".join(old for old, _ in texts.replaced)
    if lexicon is None:
        everything = r"[\s\S]*"
        alphabet = _alphabet(texts, fragments)
        characters = compile_pattern(
            everything if pattern is None else pattern, alphabet, allowed=allowed_chars, apart=apart
        )
        rule = of_characters(_decoded(characters, texts), fragments)
    else:
        lexicon = _filtered_words(list(dict.fromkeys(lexicon)), allowed_chars, pattern, name)
        if texts.replaced:
            rule = of_characters(_decoded(dense(of_words(lexicon, False, apart)), texts), fragments)
        else:
            rule = of_words(lexicon, fragments)
    automaton = over_tokens(rule, texts, eos, name)
    if lexicon is not None:
        _check_written(lexicon, rule.final[automaton.reachable()[: len(rule.final)]])
    if not automaton.writes:
        hint = "check it for spaces, and for characters that the tokenizer lacks"
        if len(names) > 1:
            hint = "leave one option out"
        raise UsageError("no text that the tokenizer can write keeps to it", field=name, hint=hint)
    return automaton


def _filtered_words(words: list[str], allowed_chars: str | None, pattern: str | None, name: str) -> list[str]:
    """The words that keep to the other rules as well."""
    if allowed_chars is not None:
        allowed = set(allowed_chars)
        words = [word for word in words if allowed.issuperset(word)]
    if pattern is not None and words:
        characters = compile_pattern(pattern, "".join(sorted(set().union(*words))))
        words = [word for word in words if characters.matches(word)]
    if not words:
        raise UsageError("no entry of the lexicon keeps to the other rules", field=name, hint="leave one option out")
    return words


def _decoded(characters: CharacterAutomaton, texts: TokenTexts) -> CharacterAutomaton:
    """The joined texts that ``characters`` accepts after the decoder's replacements."""
    for old, new in reversed(texts.replaced):
        characters = before_replacement(characters, old, new)
    return characters


def _check_written(words: list[str], reached: Ints) -> None:
    """Refuse words that no tokens make up, instead of never writing them."""
    lost = sorted(set(range(len(words))) - set(reached.tolist()))
    if lost:
        raise UsageError(
            f"{len(lost)} of {len(words)} entries cannot be written by the tokenizer, such as {words[lost[0]][:40]!r}",
            field="lexicon",
            hint="leave them out, or write them as the tokenizer decodes them, in lower case perhaps",
        )


def _alphabet(texts: TokenTexts, fragments: bool) -> str:
    """All characters that tokens make up, sorted."""
    if fragments:
        every = np.concatenate([np.arange(0xD800), np.arange(0xE000, CODE_POINTS)])  # except surrogates
        return every.astype("<u4").tobytes().decode("utf-32-le")
    return "".join(sorted(set().union(*texts.first, *texts.later)))
