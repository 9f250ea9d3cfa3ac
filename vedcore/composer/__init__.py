"""From names to a plan, and from there to a model.

``request`` is what the user said, as one frozen object; ``resolve`` makes parts of it, opening each checkpoint
(``part_checkpoints``) once; ``plan`` lays them out on torch's meta device, where nothing is allocated, and refuses what
cannot work; ``build`` makes the model.
"""
