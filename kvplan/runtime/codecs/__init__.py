"""The torch halves of the formats that store each row alone, a file per scheme.

A file defines ``CODECS``: the name of a RowFormat -> a function that builds its codec for a width. PartFormats have
one RowFormat for each part, each with its own name. Groups along tokens are in ``kvplan.runtime.group_store``.
"""

from __future__ import annotations

from kvplan.core.format import RowFormat
from kvplan.core.part import Part
from kvplan.core.registry import modules
from kvplan.runtime.codec import CodecFactory, RowCodec


def row_codec(cache_format: RowFormat, width: int) -> RowCodec:
    """The codec of a format for rows of ``width`` elements.

    Raises UnsupportedError for a width that the format cannot hold, and LookupError where the format has no codec.
    """
    cache_format.check(Part(name="cache", num_heads=1, width=width))
    for module in modules(__name__):
        codecs: dict[str, CodecFactory] = module.CODECS
        if cache_format.name in codecs:
            return codecs[cache_format.name](cache_format, width)
    raise LookupError(f"{cache_format.name} has no codec in kvplan.runtime.codecs")
