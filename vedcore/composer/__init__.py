"""From names to a plan, and from a plan to a model.

``request`` holds the user's arguments as one frozen object. ``resolve`` looks up their names, fills in all fields, and
opens each checkpoint once (``checkpoint_sources``, ``snapshot_files``). ``plan`` builds the parts on torch's meta
device, where nothing is allocated, and refuses parts that do not fit together. ``build`` makes the model.
"""
