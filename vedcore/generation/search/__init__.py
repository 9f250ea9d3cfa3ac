"""Ways of searching for a text: ``dispatch`` takes the one that the table of strategies names.

``greedy`` (and sampling), ``beams``, ``contrastive`` and ``assisted`` are generators of steps over a state. They share
``scoring`` and a ``ledger`` of what each step gives; ``microbatches`` splits many images on a CPU.
"""

from vedcore.generation.search.dispatch import search as search
from vedcore.generation.search.dispatch import stream as stream
