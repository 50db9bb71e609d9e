#!/usr/bin/env bash
# ResNet-50 for owners of 5 and of 3 dog breeds, 20 each, with all their photos (125 and 75).
#   runs/breeds.sh [--smoke]      --smoke: a few photos, in seconds
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 0 ] || [ "$*" = --smoke ] || { echo "usage: $0 [--smoke]" >&2; exit 2; }
measure() { "${PYTHON:-python}" benchmarks/accuracy.py breeds "$@"; }

measure --methods dense,fast --ns all "$@"
[ "${1:-}" = --smoke ] && exit
measure --methods lame --ns all
measure --methods best --ns all
measure --methods magnitude,magnitude-repair,wanda,wanda-repair --ns all
measure --methods dense,lame,best,fast --ns 32,16
measure --methods layer-repair,magnitude-bn,obs,obs-repair,tent --ns all --users 5
measure --methods wanda-plan-repair --ns all --users 5
measure --methods tune --ns all --users 5
