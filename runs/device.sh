#!/usr/bin/env bash
# What the device gets of ResNet-50: fewer channels, fewer pixels, 8 bits; then how fast each file is.
#   runs/device.sh [--smoke]      --smoke: a few photos and one point
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 0 ] || [ "$*" = --smoke ] || { echo "usage: $0 [--smoke]" >&2; exit 2; }
"${PYTHON:-python}" benchmarks/device.py "$@"
[ $# = 1 ] || "${PYTHON:-python}" benchmarks/device.py --time
