#!/usr/bin/env bash
# ResNet-50 for an owner of ten dog breeds, five draws of the photos. First what matters most.
#   runs/dogs.sh [--smoke]      --smoke: a few photos, in seconds
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 0 ] || [ "$*" = --smoke ] || { echo "usage: $0 [--smoke]" >&2; exit 2; }
measure() { "${PYTHON:-python}" benchmarks/accuracy.py dogs "$@"; }

if [ "${1:-}" = --smoke ]; then
    measure --methods dense,lame,magnitude-repair --smoke
    exit
fi
measure --methods dense,lame,best,fast --ns 128,all
measure --methods magnitude,magnitude-repair,layer-repair,wanda,wanda-repair --ns 128
measure --methods dense,lame,best,fast --ns 64,32,16
measure --methods best,fast --sparsities 0,0.5,0.6,0.8,0.9
measure --methods magnitude-bn,layer,obs,obs-repair,obs-uniform,tent,tune,paper
measure --methods wanda-plan,wanda-plan-repair
measure --methods magnitude,magnitude-repair,wanda,wanda-repair --sparsities 0.5,0.6,0.8,0.9
measure --methods magnitude,magnitude-repair,wanda,wanda-repair,obs-repair --ns all
measure --methods magnitude-repair,wanda-repair,tune --ns 64,32,16
measure --methods obs,obs-repair --sparsities 0.5,0.6,0.8,0.9
measure --methods magnitude-bn,layer,layer-repair --sparsities 0.5,0.6,0.8,0.9
measure --methods wanda-plan,wanda-plan-repair,obs-uniform,paper --sparsities 0.6,0.8,0.9
