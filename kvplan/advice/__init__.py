"""Floor 2: data on when to compress a cache, one YAML file per table, with the source of every row.

- ``matrix.yaml``: the classic decision matrix in its own words, and the rules beside it.
- ``rules.yaml``: what the published evidence says, first match first, and what each option stands for.
- ``quality.yaml``: every published figure of quality, and the gates that a compressed cache must pass.
- ``speed.yaml``: how fast kernels read a cache format.

A condition is written ``field operator value``: the fields are those of ``Case`` in ``kvplan/core/advice.py``, the
operators ``< <= > >= == != in``; the value is a number, a word, words separated by ``|`` (with ``in``), or another
field. A condition on a value that is not known is not met.

``sources`` gives each source a short name, by which rows cite it. ``recalled: true`` marks what was not read again: it
supports nothing by itself. ``tests/specs/test_advice.py`` holds every file to this.
"""
