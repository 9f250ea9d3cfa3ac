"""Input and output of a model: ``images``, ``tokenizers``, and the ``processor`` that uses both."""
