"""One file per engine that ``kvplan verify --against`` can start, found by the name of the file.

Each offers ``VARIABLE``, the environment variable that names the engine's interpreter, and ``verify(result, python,
progress)``, which returns Findings of the group ``engine``. A script beside them (``engine_scripts``) runs there.
"""
