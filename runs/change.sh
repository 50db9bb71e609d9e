#!/usr/bin/env bash
# What is noticed when a person's life changes, and what an update mends: a new class, another
# device, twenty updates in a row. Needs the panel's cache (runs/panel.sh).
#   runs/change.sh [--smoke]      --smoke: one small network, in seconds
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 0 ] || [ "$*" = --smoke ] || { echo "usage: $0 [--smoke]" >&2; exit 2; }
change() { "${PYTHON:-python}" benchmarks/change.py "$@"; }

if [ "${1:-}" = --smoke ]; then
    "${PYTHON:-python}" benchmarks/panel.py cache --smoke
    change class --smoke
    change device --smoke
    change twenty --smoke
    exit
fi
change class --networks resnet20,digits,dscnn-small,transformer,beats --people 4
change class --networks lite0 --people 2
change device --people 3
change twenty --people 4
