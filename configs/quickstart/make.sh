#!/bin/sh
# make.sh: makes all that the quickstart uses from the scripts beside it: train.jsonl, heldout.jsonl
# and model/. Needs Python 3 (standard library) and some ten minutes on two cores; what lies between
# goes to outputs/quickstart-base. The data and the tokenizer come out the same everywhere, the
# weights the same on the same kind of machine.
set -eu
cd "$(dirname "$0")/../.."
here=configs/quickstart
work=outputs/quickstart-base

mkdir -p $work/random $here/model
python3 $here/instructions.py $here
python3 $here/corpus.py $work
python3 $here/tokenizer.py $work $work/random
python3 $here/initialize.py $work/random
./run train --config $here/pretrain.yaml --overwrite "$@"
cp $work/run/model/* $here/model/
