#!/usr/bin/env bash
# Keyword spotters trained here, for six speakers who were not among the training speakers; and a
# network that writes what it hears. Networks that are there are not trained again.
#   runs/speech.sh [--smoke]      --smoke: a few steps and recordings, in seconds
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 0 ] || [ "$*" = --smoke ] || { echo "usage: $0 [--smoke]" >&2; exit 2; }
train() { "${PYTHON:-python}" benchmarks/train_speech.py "$@"; }
measure() { "${PYTHON:-python}" benchmarks/accuracy.py speech "$@"; }
transcribe() { "${PYTHON:-python}" benchmarks/wer.py "$@"; }

if [ "${1:-}" = --smoke ]; then
    train dscnn-small speller --smoke
    measure --networks dscnn-small-smoke --methods all --smoke
    transcribe --networks speller-smoke --smoke
    exit
fi
train --missing
measure --networks dscnn,transformer --methods all --ns all
measure --networks dscnn-small --methods all --ns all --sparsities 0.5
transcribe
measure --networks dscnn,transformer --methods dense,lame,best,fast --ns 64,32,16
measure --networks dscnn-small --methods dense,lame,best,fast --ns 64,32,16 --sparsities 0.5
measure --methods best,fast,magnitude,magnitude-repair,wanda-repair,obs-repair --ns all --sparsities 0.5,0.6,0.7,0.8,0.9
