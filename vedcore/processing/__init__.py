"""What stands before and behind a model: ``images`` and ``tokenizers``, and the ``processor`` that is both."""
