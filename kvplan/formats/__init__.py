"""Floor 2: one file per cache format, each defining ``FORMAT``.

To add one, copy the nearest file: ``int8_per_token_head.py`` (rows that stand alone), ``fp8_ds_mla.py`` (a layout
for each part) or ``kivi.py`` (groups and a residual window). Name the file as ``FORMAT.name``, say in its docstring
what it is, which engine stores it and where its figures were read. Nothing else has to be edited: the folder is
scanned by file name, then by aliases and presets, and ``tests/contracts/test_formats.py`` holds every format to the
contract.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import ModuleType

from kvplan.core.errors import UsageError
from kvplan.core.format import CacheFormat, GroupFormat, KVFormat, PartFormat, RowFormat
from kvplan.core.registry import configure, find_module, modules, split_call

_WHAT = "cache format"
_OPTIONS = ("bits", "group", "residual")

Entry = RowFormat | PartFormat | GroupFormat


def get_format(text: str) -> CacheFormat:
    """The format of ``name`` or ``name:option=value,...``; dashes count as underscores.

    Options are those of GroupFormats: bits, group, residual. Raises UnknownNameError or UsageError.
    """
    name, positional, options = split_call(text, _WHAT)
    if not name:
        raise UsageError(f"{_WHAT} {text!r} has no name", "write bf16, fp8 or int8, for example")
    entry: Entry = find_module(__name__, name, _WHAT, names_of).FORMAT
    what = f"{_WHAT} {name}"
    if not isinstance(entry, GroupFormat):
        fixed = tuple(field.name for field in dataclasses.fields(entry))
        configure(entry, positional, options, fixed, what)  # refuses any option
        return entry
    preset = entry.presets.get(name, {})
    if clash := preset.keys() & options.keys():
        raise UsageError(f"{what} sets {min(clash)} itself", f"write {entry.name}:{min(clash)}=...")
    return _configure_group(entry, positional, {**preset, **options}, what)


def parse_kv_format(text: str, native: str) -> KVFormat:
    """The formats that ``--kv-dtype`` names: one for both, or ``K/V`` as in ``q8_0/q4_0``; ``auto`` is ``native``.

    ``native`` is the model's compute dtype (``bf16`` or ``fp16``). Raises UnknownNameError or UsageError.
    """
    names = text.split("/")
    if len(names) > 2 or not all(name.strip() for name in names):
        raise UsageError(
            f"{_WHAT} {text!r} is neither one format nor a pair K/V", "write int8 or q8_0/q4_0, for example"
        )
    native_format = get_format(native)
    chosen = [native_format if name.strip().lower() == "auto" else get_format(name) for name in names]
    return KVFormat(key=chosen[0], value=chosen[-1], native=native_format)


def format_names() -> list[str]:
    """The names of all formats, without aliases and presets."""
    return [module.FORMAT.name for module in modules(__name__)]


def names_of(module: ModuleType) -> list[str]:
    """Every name that a format's module answers to: its own, its aliases and its presets."""
    entry: Entry = module.FORMAT
    return [entry.name, *entry.aliases, *getattr(entry, "presets", ())]


def _configure_group(entry: GroupFormat, positional: list[str], options: Mapping[str, str], what: str) -> GroupFormat:
    fixed = tuple(field.name for field in dataclasses.fields(entry) if field.name not in _OPTIONS)
    chosen: GroupFormat = configure(entry, positional, options, fixed, what)
    changed = [f"{name}={getattr(chosen, name)}" for name in _OPTIONS if getattr(chosen, name) != getattr(entry, name)]
    return dataclasses.replace(chosen, name=f"{entry.name}:{','.join(changed)}" if changed else entry.name)
