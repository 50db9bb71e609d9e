#!/usr/bin/env bash
# ResNet-20 for people of all ten classes whose camera is another one: as the images are, and four
# kinds of corruption at three strengths.
#   runs/shift.sh [--smoke]      --smoke: a few images, in seconds
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 0 ] || [ "$*" = --smoke ] || { echo "usage: $0 [--smoke]" >&2; exit 2; }
measure() { "${PYTHON:-python}" benchmarks/accuracy.py shift "$@"; }

measure --networks resnet20 --methods dense,best,best-norms-follow,fast,magnitude-repair,tent,tent-bn "$@"
[ "${1:-}" = --smoke ] && exit
measure --networks resnet20 --methods lame,magnitude,magnitude-bn,layer-repair,wanda,wanda-repair
measure --networks resnet20 --methods obs,obs-repair,tune
measure --networks resnet20 --methods magnitude-bn-relative,wanda-plan,wanda-plan-repair,paper
measure --networks resnet56 --methods dense,best,best-norms-follow,fast,magnitude-repair,tent,tent-bn
