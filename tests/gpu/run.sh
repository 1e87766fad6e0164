#!/bin/sh
# run.sh: everything that wants a card, in under nine minutes: operations against fp64 references,
# golden steps, equality of places, parity with PEFT, what share of their limits operations reach,
# tokens per second of a synthetic Llama-3-8B. A short table last, and JSON.
#
#   tests/gpu/run.sh [--build FOLDER] [--out FILE.json] [--carried] [--sanitize]
#
# Builds with NIBBLE_CUDA=ON for this machine's card into FOLDER (default build-gpu); --carried: the
# programs in FOLDER were built elsewhere; --sanitize: the operations under compute-sanitizer's memcheck
# and racecheck too, which takes longer. ctest runs it under the label `gpu`. Without nvcc or a
# card it says so and exits with 77.
set -eu

ROOT=$(cd "$(dirname "$0")/../.." && pwd)
BUILD=$ROOT/build-gpu
OUT=
CARRIED=
SANITIZE=
while [ $# -gt 0 ]; do
    case $1 in
    --build) BUILD=$2 && shift ;;
    --out) OUT=$2 && shift ;;
    --carried) CARRIED=yes ;;
    --sanitize) SANITIZE=yes ;;
    *) sed -n '2,12s/^# \{0,1\}//p' "$0" && exit 2 ;;
    esac
    shift
done

skip() {
    echo "skipped: $*"
    exit 77
}

command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU ||
    skip "no NVIDIA card here"
CARD=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1)
ARCH=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
BEGAN=$(date +%s)

if [ -z "$CARRIED" ]; then
    command -v nvcc >/dev/null 2>&1 || [ -x /usr/local/cuda/bin/nvcc ] || skip "no nvcc to build with"
    cmake -S "$ROOT" -B "$BUILD" -DNIBBLE_CUDA=ON -DNIBBLE_CUDA_ARCHITECTURES="$ARCH-real" >/dev/null
    cmake --build "$BUILD" -j "$(nproc)" --target train test_operations_card test_decoder_card
fi
TRAIN=$BUILD/train
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
RESULTS=$WORK/results
: >"$RESULTS"
FAILED=0

# part NAME SECONDS COMMAND...: its outcome and time as one line of the table.
part() {
    name=$1 limit=$2 start=$(date +%s)
    shift 2
    if timeout -k 10 "$limit" "$@" >"$WORK/$name.log" 2>&1; then
        outcome=ok
    else
        case $? in
        77) outcome=skipped ;;
        *) outcome=FAILED FAILED=1 && tail -20 "$WORK/$name.log" ;;
        esac
    fi
    echo "$name $outcome $(($(date +%s) - start))" >>"$RESULTS"
}

export NIBBLE_TRAIN="$TRAIN" NIBBLE_FIXTURES="$ROOT/../shared/fixtures"
part operations 120 "$BUILD/tests/test_operations_card"
part golden 120 "$BUILD/tests/test_decoder_card"
part parity 60 python3 -B "$ROOT/tests/run/parity.py"
part equality 120 python3 -B "$ROOT/tests/run/equality.py" Equality.test_row16_llama \
    Equality.test_row16_qwen3
part back_ends 120 python3 -B "$ROOT/tests/run/cuda.py" Emulated.test_back_ends_are_interchangeable \
    Emulated.test_resumed_is_equal Emulated.test_quickstart
part bench 100 "$TRAIN" bench --device cuda --format json --out "$WORK/bench.json"

# Llama-3-8B with random weights: job NAME VERB KEY=VALUE...
job() {
    name=$1 verb=$2
    shift 2
    part "$name" 120 "$TRAIN" "$verb" --device cuda --synthetic --config "$ROOT/configs/qlora-8b.yaml" \
        base_model=synthetic:llama-3-8b micro_batch_size=1 gradient_accumulation_steps=1 lora_r=16 \
        lora_dropout=0 --format json "$@"
}
for mode in recompute keep; do
    job "8b_$mode" bench memory.activations=$mode --out "$WORK/8b_$mode.json"
done
job measure plan --measure memory.activations=keep output_dir="$WORK/tuned"
job 8b_tuned bench memory.activations=keep output_dir="$WORK/tuned" --out "$WORK/8b_tuned.json"
if [ -n "$SANITIZE" ]; then
    for tool in memcheck racecheck; do
        part "$tool" 900 compute-sanitizer --tool "$tool" --error-exitcode 1 "$BUILD/tests/test_operations_card"
    done
fi

python3 - "$WORK" "$CARD" "${OUT:-}" <<'PYTHON'
import json, os, sys

work, card, out = sys.argv[1:]
parts = [line.split() for line in open(os.path.join(work, "results"))]
said = {"card": card, "parts": {n: {"outcome": o, "seconds": int(s)} for n, o, s in parts}}
print("\n%-28s %s" % ("card", card))
for name, outcome, seconds in parts:
    print("%-28s %-8s %4s s" % (name, outcome, seconds))
for name in ("bench", "8b_recompute", "8b_keep", "8b_tuned"):
    path = os.path.join(work, name + ".json")
    if not os.path.exists(path):
        continue
    with open(path) as f:
        said[name] = json.load(f)
    for key, q in said[name]["results"].items():
        print("%-28s %10.4g %s %s" % (name + " " + key, q["median"], q["unit"], q["limit"]))
if out:
    with open(out, "w") as f:
        json.dump(said, f, indent=1)
PYTHON
echo "$(($(date +%s) - BEGAN)) s in all"
exit $FAILED
