#!/usr/bin/env bash
# ResNet-20 and -56 for people of 3 of the 10 classes of CIFAR-10 after a JPEG round trip.
#   runs/cifar.sh [--smoke]      --smoke: a few images, in seconds
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 0 ] || [ "$*" = --smoke ] || { echo "usage: $0 [--smoke]" >&2; exit 2; }
measure() { "${PYTHON:-python}" benchmarks/accuracy.py cifar "$@"; }

measure --methods all --ns 128 "$@"
[ "${1:-}" = --smoke ] && exit
measure --methods dense,lame,best,fast --ns 250,64,32,16
measure --methods best,fast,magnitude-bn --sparsities 0
measure --methods best,fast,paper --sparsities 0.5,0.6,0.8,0.9
measure --methods magnitude,magnitude-bn,magnitude-repair,layer,layer-repair --sparsities 0.5,0.6,0.8,0.9
measure --methods wanda,wanda-repair,obs-uniform,obs,obs-repair --sparsities 0.5,0.6,0.8,0.9
measure --methods wanda-plan,wanda-plan-repair,magnitude-bn-relative --sparsities 0.5,0.6,0.8,0.9
measure --methods magnitude-repair,layer-repair,wanda-repair,obs-repair,tent,tune --ns 250,64,32,16
