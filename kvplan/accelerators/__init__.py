"""Floor 2: data, one YAML file per device, with the source of every value.

To add one, copy ``h100-sxm.yaml``; nothing else has to be edited. The file is called like its ``name``.

- ``name``, ``title``, ``vendor``, ``aliases``: what people and drivers call it. Case, dashes, spaces and the maker's
  words in front do not count, so ``NVIDIA H100 80GB HBM3`` is found by the alias ``h100-80gb-hbm3``.
- ``memory_bytes``: the total that the runtime reports to a program (``torch.cuda.mem_get_info()[1]``);
  ``memory_reading`` says how it is known, a key of ``READINGS`` in ``kvplan/core/accelerator.py``. Without a reading of
  a real device it is the data sheet's size, in decimal units unless the sheet says GiB: never more than is there.
- ``management_bytes``: the total that nvidia-smi or rocm-smi shows; ``nominal_gigabytes``: the figure on the box.
- ``compute_capability: [9, 0]`` (NVIDIA) or ``gfx_target: gfx942`` (AMD); ``unified_memory: true`` where the host's
  memory is the device's.
- ``bandwidth_gigabytes_per_second``: of the memory, in units of 10^9.
- ``peak_tflops``: dense rates in 10^12 operations a second by dtype; a dtype is left out when its rate is not known.
- ``link``, ``link_gigabytes_per_second``: to other devices in the machine, per device and direction.
- ``sources``: for each of these fields where it was read. A value without a source is left out, never recalled.
- ``notes``: where sources differ, and what else a reader must know.

``tests/accelerators`` holds every file to this.
"""
