"""Input and output of a model: ``pages``, ``images`` and their ``reader``, ``tokenizers``, and the ``processor``."""
