"""``processor.tokenizer``: a ``tokenizers.Tokenizer`` with the names that people know from transformers."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import AddedToken, Encoding, Tokenizer

from vedcore.config import TokenIds, plain
from vedcore.config_files.plain import short
from vedcore.errors import UsageError
from vedcore.processing.batch import Batch, check_return_tensors
from vedcore.processing.encoding import OnUnknown, encodings, unknown_id
from vedcore.processing.tokenizers import decode_ids
from vedcore.transformers_names import ADDING, DECODING, TOKENIZER, TOKENIZING, missing_attribute, refuse_unknown

__all__ = ["TextTokenizer", "length_limit", "padded_length", "shall_cut"]

if TYPE_CHECKING:
    _Base = Tokenizer
else:  # the library's class cannot be subclassed
    _Base = object

_ROLE = re.compile(r"(bos|eos|pad|unk|cls|sep|mask)_token(_id)?")
_DECODE = ("clean_up_tokenization_spaces",)
"""Options of ``decode`` that ``batch_decode`` hands on."""
_NAMES = {
    "bos": ("<s>", "<bos>", "[BOS]", "<|startoftext|>", "<|begin_of_text|>", "<|endoftext|>"),
    "eos": ("</s>", "<eos>", "[EOS]", "<|end_of_text|>", "<|endoftext|>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
    "unk": ("[UNK]", "<unk>"),
}
"""Common names of special tokens by role; the first that a tokenizer has counts."""


class TextTokenizer(_Base):  # type: ignore[misc]
    """A ``tokenizers.Tokenizer`` that is used as one of transformers, or as the ``tokenizers.Tokenizer`` that it is.

    All of that class's own attributes are here too, and reading or setting one means the backend's.

    ``pad_token_id`` and ``eos_token_id`` are the model's (``model.token_ids``), and setting them changes those;
    ``bos``, ``unk``, ``cls``, ``sep`` and ``mask`` go by the common names of such tokens. ``…_token`` is the text of
    each. They are None where there is none.

    Args:
        backend: the tokenizer.
        token_ids: the model's ids.
        model_max_length: the most tokens that the model takes; None for no limit.

    Attributes: ``backend_tokenizer``, and the other arguments under their names.
    """

    model_input_names = ("input_ids", "attention_mask")
    """transformers' name of what a call gives."""
    backend_tokenizer: Tokenizer
    token_ids: TokenIds
    model_max_length: int | None

    def __init__(self, backend: Tokenizer, token_ids: TokenIds, model_max_length: int | None = None) -> None:
        self.backend_tokenizer = backend
        self.token_ids = token_ids
        self.model_max_length = model_max_length

    def __reduce__(self) -> Any:
        return TextTokenizer, (self.backend_tokenizer, self.token_ids, self.model_max_length)

    if not TYPE_CHECKING:

        @property
        def __class__(self) -> type:  # isinstance() takes it for the library's
            return Tokenizer

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if role := _ROLE.fullmatch(name):
            index = self._id_of(role[1])
            return index if role[2] or index is None else self.backend_tokenizer.id_to_token(index)
        if (error := missing_attribute("a tokenizer", name, TOKENIZER)) is not None:
            raise error
        return getattr(self.backend_tokenizer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if role := _ROLE.fullmatch(name):
            self._set_role(name, role[1], value)
            return
        if name in ("padding_side", "truncation_side"):
            if value != getattr(self, name):
                raise UsageError("cannot be set", field=f"tokenizer.{name}", hint=TOKENIZING["padding_side"])
            return
        if name in ("backend_tokenizer", "token_ids", "model_max_length"):
            object.__setattr__(self, name, value)
            return
        if hasattr(type(self.backend_tokenizer), name):
            with contextlib.suppress(AttributeError):  # it cannot be written
                setattr(self.backend_tokenizer, name, value)
                return
        known = ", ".join(name for name in inspect.signature(self.__call__).parameters if name != "more")
        raise UsageError("a tokenizer has no such setting", field=f"tokenizer.{name}", hint=f"a call takes {known}")

    def _set_role(self, name: str, role: str, value: Any) -> None:
        """Set the token of a role, by its text or id; None unsets it."""
        if value == getattr(self, name):
            return
        if role not in ("eos", "pad"):
            raise UsageError(
                "cannot be set",
                field=f"tokenizer.{name}",
                hint="set model.token_ids = model.token_ids.changed(start=…), or those of a processor alone"
                if role == "bos"
                else f"add {' or '.join(_NAMES[role])} with model.add_tokens([…], special_tokens=True)",
            )
        if value is None:
            self.token_ids = self.token_ids.changed(**{role: () if role == "eos" else None})
            return
        tokens = self.backend_tokenizer.get_vocab()
        index = plain(value) if name.endswith("_id") else tokens.get(str(value))
        if index not in tokens.values():
            raise UsageError(
                f"the tokenizer has no {short(value)}",
                field=f"tokenizer.{name}",
                hint="add it with model.add_tokens([…], special_tokens=True) first",
            )
        self.token_ids = self.token_ids.changed(**{role: index})

    def _id_of(self, role: str) -> int | None:
        if role == "pad":
            return self.token_ids.pad
        if role == "unk" and (unknown := unknown_id(self.backend_tokenizer)) is not None:
            return unknown
        if role == "eos" and self.token_ids.eos:
            return self.token_ids.eos[0]
        return next((i for i in map(self.backend_tokenizer.token_to_id, _NAMES[role]) if i is not None), None)

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size()

    def __repr__(self) -> str:
        return f"TextTokenizer({len(self):,} tokens, {self.token_ids!r})"

    @property
    def padding_side(self) -> str:
        """Where a call fills up rows: ``"right"``."""
        return "right"

    @property
    def truncation_side(self) -> str:
        """Where a call cuts texts: ``"right"``."""
        return "right"

    @property
    def vocab_size(self) -> int:
        """Number of tokens without added ones; ``len`` counts these too."""
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=False)

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens, by id."""
        return [token.content for _, token in self._added() if token.special]

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens`."""
        return [i for i, token in self._added() if token.special]

    def get_added_vocab(self) -> dict[str, int]:
        """Ids of the special and added tokens, by their texts."""
        return {token.content: i for i, token in self._added()}

    def _added(self) -> list[tuple[int, AddedToken]]:
        return sorted(self.backend_tokenizer.get_added_tokens_decoder().items())

    # -- text to ids ------------------------------------------------------------------------------------------------

    def __call__(
        self,
        text: str | Sequence[str] = (),
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        return_tensors: str | None = None,
        untrusted: bool = False,
        on_unknown: OnUnknown = "warn",
        **more: Any,
    ) -> Batch:
        """``input_ids`` and ``attention_mask`` of a text, or of each text of a list, as in transformers.

        Labels are better made by ``processor(text=…)``, which leaves out the start id and fills up with -100.

        Args:
            text: a text or a list of texts.
            add_special_tokens: add those of the tokenizer's template, such as ``[CLS]`` and ``[SEP]``.
            padding: True or ``"longest"`` fills up with the pad id to the longest text, ``"max_length"`` to
                ``max_length``; False does not.
            truncation: True cuts texts to ``max_length``, False does not; by default they are cut where it is given
                without padding.
            max_length: number of ids, those of the template included; where one is needed, ``model_max_length`` by
                default.
            return_tensors: ``"pt"`` for tensors (N, T); by default lists.
            untrusted: spell out the names of special and added tokens in the texts.
            on_unknown: ``"warn"``, ``"error"`` or ``"ignore"`` for pieces that have no token.
            more: nothing; a name of transformers is an error that says what to write.

        Raises:
            TokenizerError: a text that cannot be encoded.
            UsageError: arguments that contradict each other or are unknown, or rows of different lengths for a tensor.
        """
        refuse_unknown(more, self.__call__, TOKENIZING)
        check_return_tensors(return_tensors)
        max_length = length_limit(max_length, self.model_max_length, padding, truncation)
        cut = shall_cut(truncation, max_length, default=not padding)
        texts = [text] if isinstance(text, str) else list(text)
        found = encodings(self.backend_tokenizer, texts, untrusted=untrusted, on_unknown=on_unknown)
        rows = [self._ids(encoding, max_length if cut else None, add_special_tokens) for encoding in found]
        width = padded_length(padding, max_length, rows)
        fill = self.token_ids.pad
        if fill is None and any(len(row) < width for row in rows):
            raise UsageError(
                "the model has no pad token id",
                field="padding",
                hint="set model.token_ids = model.token_ids.changed(pad=…), or those of a processor alone",
            )
        masks = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
        filled: Any = [[*row, *[fill] * (width - len(row))] for row in rows]
        if return_tensors is not None:
            if len(set(map(len, filled))) > 1:
                raise UsageError("rows of different lengths", field="return_tensors", hint="give padding=True")
            return Batch(input_ids=torch.tensor(filled), attention_mask=torch.tensor(masks))
        if isinstance(text, str):
            return Batch(input_ids=filled[0], attention_mask=masks[0])
        return Batch(input_ids=filled, attention_mask=masks)

    def _ids(self, encoding: Encoding, max_length: int | None, add_special_tokens: bool) -> list[int]:
        if max_length is not None:
            room = self.backend_tokenizer.num_special_tokens_to_add(False) if add_special_tokens else 0
            encoding.truncate(max(0, max_length - room))
        if add_special_tokens:
            encoding = self.backend_tokenizer.post_process(encoding)
        return encoding.ids

    def encode(
        self,
        sequence: Any,
        pair: Any = None,
        is_pretokenized: bool = False,
        add_special_tokens: bool = True,
        **more: Any,
    ) -> Encoding:
        """That of ``tokenizers.Tokenizer``; a call of the tokenizer gives ids as transformers does.

        Args:
            sequence: the text.
            pair: a second one.
            is_pretokenized: whether they are lists of words.
            add_special_tokens: add those of the tokenizer's template.
            more: nothing; options of transformers' ``encode`` are an error.

        Raises:
            UsageError: an unknown argument.
        """
        refuse_unknown(more, self.encode, dict.fromkeys(more, "call the tokenizer itself"))
        return self.backend_tokenizer.encode(sequence, pair, is_pretokenized, add_special_tokens)

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text, without those of the template."""
        return encodings(self.backend_tokenizer, [text])[0].tokens

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """The id of a token, or those of several; that of the unknown token for a text that is no token."""
        if isinstance(tokens, str):
            index = self.backend_tokenizer.token_to_id(tokens)
            return self._id_of("unk") if index is None else index
        return [self.convert_tokens_to_ids(token) for token in tokens]

    # -- ids to text ------------------------------------------------------------------------------------------------

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The token of an id, or those of several: a list, array or tensor."""
        ids = ids.tolist() if hasattr(ids, "tolist") else ids
        if isinstance(ids, int):
            return self.backend_tokenizer.id_to_token(ids)
        special = set(self.all_special_ids) if skip_special_tokens else ()
        return [self.backend_tokenizer.id_to_token(i) for i in ids if i not in special]

    def decode(
        self,
        ids: Any = (),
        skip_special_tokens: bool = True,
        clean_up_tokenization_spaces: bool | None = None,
        **more: Any,
    ) -> str:
        """The text of one row of ids: a list, array or tensor.

        Args:
            ids: the ids; -100 gives no text.
            skip_special_tokens: False keeps special tokens, as transformers does by default.
            clean_up_tokenization_spaces: True takes out spaces before punctuation, but not from byte-pair texts.
            more: nothing; a name of transformers is an error that says what to write.

        Raises:
            TokenizerError: not a single row of ids.
            UsageError: an unknown argument.
        """
        refuse_unknown(more, self.decode, DECODING)
        row = [ids] if isinstance(ids, int) else ids
        return decode_ids(self.backend_tokenizer, row, skip_special_tokens, bool(clean_up_tokenization_spaces))

    def batch_decode(self, ids: Any = (), skip_special_tokens: bool = True, **options: Any) -> list[str]:
        """The text of each row of ids; ``options`` as `decode` takes them."""
        refuse_unknown({name: options[name] for name in options if name not in _DECODE}, self.decode, DECODING)
        return [self.decode(row, skip_special_tokens, **options) for row in ids]

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write the files from which transformers' ``AutoTokenizer`` makes the same tokenizer, beside those there.

        Raises:
            CheckpointWriteError: the folder cannot be written.
        """
        from vedcore.plugins import load_component

        load_component("format", "native")[0].save_tokenizer(self, save_directory)

    # -- more tokens ------------------------------------------------------------------------------------------------

    def add_tokens(self, tokens: Any, special_tokens: bool = False) -> int:
        """Add tokens to the tokenizer alone; ``model.add_tokens`` gives the decoder rows for them too.

        Args:
            tokens: a text, or a list of texts or ``AddedToken``.
            special_tokens: decoding leaves them out by default.

        Returns:
            Number of tokens that are new.
        """
        new = [tokens] if isinstance(tokens, (str, AddedToken)) else list(tokens)
        if special_tokens:
            return self.backend_tokenizer.add_special_tokens(new)
        return self.backend_tokenizer.add_tokens(new)

    def add_special_tokens(self, tokens: Any, **more: Any) -> int:
        """Add special tokens, from a list or from ``{"additional_special_tokens": […]}``; see `add_tokens`.

        Raises:
            UsageError: another key, as the roles of tokens are the model's; an unknown argument.
        """
        refuse_unknown(more, self.add_special_tokens, ADDING)
        if isinstance(tokens, Mapping):
            known = ("additional_special_tokens", "extra_special_tokens")
            if other := next((key for key in tokens if key not in known), None):
                raise UsageError(
                    "the roles of tokens are the model's",
                    field=str(other),
                    hint="add it with model.add_tokens([…], special_tokens=True), and set model.token_ids",
                )
            tokens = [token for group in tokens.values() for token in group]
        return self.add_tokens(tokens, special_tokens=True)


def length_limit(
    max_length: int | None, model_max_length: int | None, padding: object, truncation: object
) -> int | None:
    """``max_length``, or that of the model where padding or truncation needs one.

    Raises:
        UsageError: not a whole number above 0.
    """
    if max_length is None:
        return model_max_length if padding == "max_length" or truncation not in (None, False) else None
    if not isinstance(max_length, int) or max_length < 1:
        raise UsageError(f"{max_length!r} is not a length", field="max_length", hint="give 1 or more")
    return max_length


def shall_cut(truncation: object, max_length: int | None, *, default: bool) -> bool:
    """Whether texts are cut to ``max_length``.

    Args:
        truncation: as transformers takes it; None takes ``default`` where there is a ``max_length``.
        max_length: the limit.
        default: see ``truncation``.

    Raises:
        UsageError: another word, or no ``max_length`` to cut to.
    """
    if truncation is None:
        return default and max_length is not None
    if truncation in (False, "do_not_truncate"):
        return False
    if truncation not in (True, "longest_first", "only_first"):
        raise UsageError(f"{truncation!r} is not a choice", field="truncation", hint="give True or False")
    if max_length is None:
        raise UsageError("no length is given", field="truncation", hint="give max_length= too")
    return True


def padded_length(padding: object, max_length: int | None, rows: Sequence[Sequence[int]]) -> int:
    """The length that rows are filled up to; 0 for none.

    Args:
        padding: as transformers takes it.
        max_length: for ``"max_length"``.
        rows: the ids.

    Raises:
        UsageError: another word, no ``max_length``, or a row that is longer.
    """
    if padding in (False, None, "do_not_pad"):
        return 0
    if padding in (True, "longest"):
        return max(map(len, rows), default=0)
    if padding != "max_length":
        raise UsageError(f"{padding!r} is not a choice", field="padding", hint="give True, False or 'max_length'")
    if max_length is None:
        raise UsageError("no length is given", field="padding", hint="give max_length= too")
    if rows and (longest := max(map(len, rows))) > max_length:
        raise UsageError(
            f"a text of {longest} tokens is longer than {max_length}", field="max_length", hint="give truncation=True"
        )
    return max_length
