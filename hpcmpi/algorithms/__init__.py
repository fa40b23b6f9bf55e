"""One package for each algorithm; dropping one in here adds a command and its public functions.

A package holds ``__init__.py`` (help text, ``Params``, ``PUBLIC``), ``cost.py``, ``driver.py``, a module for each
method and, where it has any, ``kernels.py``.
"""
