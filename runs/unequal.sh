#!/usr/bin/env bash
# ResNet-20 for people of 3 or 5 of the 10 classes of CIFAR-10 who have some far more often than others.
#   runs/unequal.sh [--smoke]      --smoke: a few images, in seconds
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 0 ] || [ "$*" = --smoke ] || { echo "usage: $0 [--smoke]" >&2; exit 2; }
measure() { "${PYTHON:-python}" benchmarks/accuracy.py unequal "$@"; }

measure --methods dense,lame,best,fast,magnitude-repair --ns 128 "$@"
[ "${1:-}" = --smoke ] && exit
measure --methods dense,lame,best,fast --ns 250,64,32
measure --methods layer-repair,wanda-repair,obs-repair,tent --ns 128
