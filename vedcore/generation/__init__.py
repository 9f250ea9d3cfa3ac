"""Writing text token by token.

``generate`` has the functions that a model fulfilling ``protocol`` has as methods; each makes one ``call``. ``options``
are checked and name the search; ``arguments`` checks tensors; both become a ``request``. A ``search`` steps through a
``state``, changes scores by ``processors`` (``constraints`` among them), and ends rows by ``stopping``; criteria and
processors of the caller replace those of the options by ``own_criteria``. ``streaming`` hands tokens on as they come;
``results`` turns ids into texts. docs/how-a-text-is-written.md follows an image through all of them.
"""
