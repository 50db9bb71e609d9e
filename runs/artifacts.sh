#!/usr/bin/env bash
# Accuracy against the bytes of an artifact. Takes about an hour. Usage: runs/artifacts.sh [--smoke]
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 0 ] || [ "$*" = --smoke ] || { echo "usage: $0 [--smoke]" >&2; exit 2; }
"${PYTHON:-python}" benchmarks/artifacts.py "$@"
