"""What compression costs in quality and time, measured on a real model: the protocol, the tasks and their runs.

Without the harness, transformers' own ``generate()`` reads through the same caches::

    cache = CompressedCache.from_words(model.config, kv_dtype="int8", policy="h2o:keep=0.5", native="bf16")
    with attending(model, cache):  # needed only by policies that choose tokens
        text = model.generate(**inputs, past_key_values=cache, do_sample=False, max_new_tokens=64)

and gives the tokens that ``ModelHandle.generate_after`` gives. A second turn, whose question was not known when the
context was compressed, is the whole text again beside the same cache: ``generate()`` feeds what the cache has not seen.
"""
