#!/usr/bin/env bash
# Time and memory of personalising ResNet-50 beside dense inference, each in a process of its own;
# and the time of a deep, narrow network, which is all overhead (printed, not written down).
#   runs/cost.sh [--smoke]      --smoke: a few photos, in seconds
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 0 ] || [ "$*" = --smoke ] || { echo "usage: $0 [--smoke]" >&2; exit 2; }
measure() { "${PYTHON:-python}" benchmarks/cost.py "$@"; }

"${PYTHON:-python}" benchmarks/overhead.py "$@"
measure --photos 128 --rounds 3 "$@"
[ "${1:-}" = --smoke ] && exit
measure --photos 250 --rounds 1
measure --photos 32 --rounds 1
