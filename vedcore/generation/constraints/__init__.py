"""Texts that keep to an alphabet, a regular expression, or a list of words.

``compiling`` makes one automaton over tokens of the options. On the way there ``regex`` reads an expression over
``char_classes``, ``symbols`` adds the bytes of characters, ``token_text`` says what each token writes, and
``token_automaton`` joins the two; ``processor`` bars the tokens that it does not allow.
"""

from vedcore.generation.constraints.compiling import compile_constraint as compile_constraint
from vedcore.generation.constraints.processor import ConstraintProcessor as ConstraintProcessor
from vedcore.generation.constraints.token_automaton import TokenAutomaton as TokenAutomaton
