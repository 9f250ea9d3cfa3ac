"""Writing text token by token.

``mixin`` is what a model has of it, ``generate`` above all. A call is checked (``config`` with ``rules``,
``arguments``), becomes a ``request``, and ``search`` picks who steps through it: ``greedy``, ``contrastive``,
``assisted`` (with ``drafters`` and ``ragged``), or ``beams`` (with ``groups``, ``constrained``, ``candidates`` and
``pool``). They see the model as a ``state``, change scores by ``logits`` and ``warpers``, and end by ``stopping``.
``constraints`` hold a text to a rule (``regex``, ``symbols``, ``pieces``, ``token_automaton``); ``streaming`` hands
tokens on as they come, and ``results`` turns them into texts.
"""
