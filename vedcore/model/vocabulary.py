"""The vocabulary of a composed model: its tokenizer and its decoder grow together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NoReturn

from tokenizers import AddedToken

from vedcore.config import MAX_VOCAB_SIZE, TOKEN_ID_FIELDS, check_limit, token_id_tuple
from vedcore.errors import IncompatibleError, TokenizerError, UsageError
from vedcore.layers.sharing import alone
from vedcore.model.parts import ComposedParts
from vedcore.processing.letters import new_letters, with_letters
from vedcore.processing.processor import vocab_size_of
from vedcore.processing.text_tokenizer import TextTokenizer

__all__ = ["GrowingVocabulary"]


class GrowingVocabulary(ComposedParts):
    """Parts whose vocabulary can be changed."""

    @alone
    def resize_vocabulary(self, vocab_size: int) -> None:
        """Give the decoder ``vocab_size`` tokens; kept rows stay as they are, ties stay tied.

        Raises:
            ConfigSchemaError: a token id that would fall outside.
        """
        if not isinstance(vocab_size, int):
            raise UsageError(f"a whole number expected, got {type(vocab_size).__name__}", field="vocab_size")
        check_limit(vocab_size, MAX_VOCAB_SIZE, "vocab_size", "the vocabulary of")
        if vocab_size < 1:
            raise UsageError(f"a vocabulary of {vocab_size} tokens", field="vocab_size", hint="give 1 or more")
        self.processor.token_ids.check(vocab_size)
        tokenizer = self.processor.tokenizer
        if tokenizer is not None and vocab_size_of(tokenizer) > vocab_size:
            raise IncompatibleError(
                f"the tokenizer has {vocab_size_of(tokenizer)} tokens, more than {vocab_size}",
                field="vocab_size",
                hint="change model.processor.tokenizer first",
            )
        self.origin_record.settle(self)
        self.decoder.resize_token_embeddings(vocab_size)
        config = self.decoder.config
        outside = [f for f in TOKEN_ID_FIELDS if max(token_id_tuple(getattr(config, f)), default=0) >= vocab_size]
        self.decoder.config = config.changed(**dict.fromkeys(outside))  # the family's own ids, which token_ids replaced
        self.origin_record.settle(self)

    @alone
    def add_tokens(self, tokens: str | Sequence[str | AddedToken], special_tokens: bool = False) -> int:
        """Add tokens to the tokenizer, and rows for them to the decoder.

        Args:
            tokens: a text or several, such as `vedcore.fields.tokens` gives; those that were added before stay.
            special_tokens: decoding leaves them out by default.

        Returns:
            Number of tokens that are new.

        Raises:
            TokenizerError: the model has no tokenizer.
            ConfigLimitError: more tokens than a vocabulary may have.
        """
        tokenizer = self._growing_tokenizer()
        known = {} if special_tokens else tokenizer.get_added_vocab()  # a special token stays one
        given = [tokens] if isinstance(tokens, (str, AddedToken)) else list(tokens)
        new = [token for token in given if str(token) not in known]
        check_limit(vocab_size_of(tokenizer) + len(new), MAX_VOCAB_SIZE, "vocab_size", "the vocabulary of")
        before = len(tokenizer)
        tokenizer.add_tokens(new, special_tokens=special_tokens)
        if (size := vocab_size_of(tokenizer)) > self.decoder.vocab_size:
            self.resize_vocabulary(size)
        return len(tokenizer) - before

    @alone
    def extend_alphabet(self, characters: str | Iterable[str]) -> str:
        """Give the tokenizer the characters that it cannot spell, and the decoder rows for them.

        Unlike `add_tokens`, it leaves the words around them whole. Ids and weights that were there stay.

        Args:
            characters: a text or several, such as the labels; each character counts once.

        Returns:
            The characters that are new, in their order; none of a tokenizer that spells any text by its bytes.

        Raises:
            TokenizerError: the model has no tokenizer, or a lone surrogate.
            ConfigLimitError: more tokens than a vocabulary may have.
        """
        tokenizer = self._growing_tokenizer()
        given = dict.fromkeys("".join(characters))
        missing = new_letters(tokenizer.backend_tokenizer, ["".join(given)])
        new = "".join(character for character in given if character in missing)
        if new:
            backend = with_letters(tokenizer.backend_tokenizer, new)
            size = vocab_size_of(backend)
            check_limit(size, MAX_VOCAB_SIZE, "vocab_size", "the vocabulary of")
            tokenizer.backend_tokenizer = backend
            if size > self.decoder.vocab_size:
                self.resize_vocabulary(size)
        return new

    def _growing_tokenizer(self) -> TextTokenizer:
        tokenizer = self.processor.tokenizer
        if tokenizer is None:
            raise TokenizerError(
                "the model has no tokenizer to add them to",
                field="tokenizer",
                hint="give tokenizer=, such as a tokenizer.json, to vedcore.load or compose",
            )
        return tokenizer

    def tie_weights(self) -> None:
        """Nothing: layers that share weights share them always."""

    def resize_token_embeddings(self, *_: object, **__: object) -> NoReturn:
        """Not here: `resize_vocabulary` is the method.

        Raises:
            UsageError: always.
        """
        raise UsageError("no such method", field="resize_token_embeddings", hint="call model.resize_vocabulary(n)")
