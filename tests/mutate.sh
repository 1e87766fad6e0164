#!/bin/sh
# Plants one-line faults, one at a time, in a copy of the tree and requires that the suite turns
# red for each: tests that cannot fail would show here. Not in the default suite (some minutes):
#
#   tests/mutate.sh [WORD ...]      all faults, or those whose name holds one of the words
#
# A row: name | file | sed expression (must change exactly one line) | tests that should see it.
set -eu

faults='
rope turns the wrong way | autograd/cpu/rope.c | s/s = direction \* t->sine/s = -direction * t->sine/ | decoder operations run_parity
no bias correction | quant/adamw.c | s/correction1 = 1.0 - pow(beta1, (double)t)/correction1 = 1.0/ | operations run_parity
labels are not shifted | data/loader.c | s/!= LABEL_IGNORED ? labels\[i + 1\]/!= LABEL_IGNORED ? labels[i]/ | loader run_parity
a changed page is not written back | autograd/pager.c | s/slot->dirty |= g->s->uses\[use\].written;/(void)use;/ | planner run_equality
a page is used before it has arrived | autograd/pager.c | s/stall_seconds += g->b->table->await(g->b, slot->ready)/stall_seconds += 0/ | planner run_equality
the window is one too wide | autograd/cpu/attention.c | s/(int)min_i64(attr->attention.window, 1 << 30)/(int)min_i64(attr->attention.window + (attr->attention.window > 0), 1 << 30)/ | attention operations run_parity
rsLoRA without the root | trainer/model/lora_spec.c | s/r->alpha \/ sqrt((double)r->rank)/r->alpha \/ (double)r->rank/ | model decoder run_parity
absmax without its offset | quant/double.c | s/absmax\[i\] = scaled + offset/absmax[i] = scaled/ | quant run_parity
gradients are not clipped | trainer/run/step.c | s/< 1) clip = most \/ (out->grad_norm + 1e-6)/< 1) clip = 1/ | run_parity
the mean of means | trainer/run/step.c | s/TRY(run_micro(p, &g->micro\[a\], weight, number));/TRY(run_micro(p, \&g->micro[a], (float)(o->loss_scale \/ (double)(g->micro[a].target_count * g->micro_count)), number));/ | run_parity
the end of a text is not learned | data/prompts.c | s/spans_control(b, b->names.eos, true)/spans_control(b, b->names.eos, false)/ | data
positions go on through packed rows | data/loader.c | s/s->positions\[at + i\] = (int32_t)i;/s->positions[at + i] = (int32_t)(at + i);/ | loader run_parity
a resumed run repeats a batch | trainer/run/loop.c | s/r->state.cursor = g->index + 1;/r->state.cursor = g->index;/ | run_resume
the checksum of a page is not looked at | data/parquet/column.c | s/if (!h->has_crc || crc32/if (!h->has_crc || 1 || crc32/ | parquet_abuse
differences without their least | data/parquet/integers.c | s/(uint64_t)r->value + (uint64_t)r->least + more/(uint64_t)r->value + more/ | parquet
a stream goes on a row too late | data/feed.c | s/row_stream_seek(f->stream, place->row);/row_stream_seek(f->stream, place->row + 1);/ | feed run_resume
moments are not restored | trainer/run/state.c | s/{t->master, t->m, t->v, t->absmax1/{t->master, -1, t->v, t->absmax1/ | run_resume
'

here=$(cd "$(dirname "$0")/.." && pwd)
top=$(mktemp -d "${TMPDIR:-/tmp}/nibble-mutate-XXXXXX")
trap 'rm -rf "$top"' EXIT
mkdir "$top/main"
(cd "$here" && git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf -) |
    tar -xf - -C "$top/main"
if [ -d "$here/../shared" ]; then ln -s "$(cd "$here/../shared" && pwd)" "$top/shared"; fi
cmake -S "$top/main" -B "$top/build" -DCMAKE_BUILD_TYPE=Release >/dev/null

# Builds what the named tests need and runs them; 0: green, 1: red, 2: does not build.
run_tests() {
    targets=train pattern=
    for t in "$@"; do
        case $t in run_*) ;; *) targets="$targets test_$t" ;; esac
        pattern="${pattern:+$pattern|}^$t\$"
    done
    make -C "$top/build" -j2 $targets >"$top/log" 2>&1 || return 2
    (cd "$top/build" && ctest -R "$pattern" --stop-on-failure --timeout 900) >"$top/log" 2>&1 ||
        return 1
}

run_tests $(echo "$faults" | sed -n 's/.*| //p' | tr ' ' '\n' | sort -u) || {
    echo "FAIL  without any fault"
    tail -20 "$top/log"
    exit 1
}
planted=0 green=
asked=$*
IFS='
'
for row in $faults; do
    IFS='|' read -r name file _ <<EOF
$row
EOF
    # the expression may hold a bar: it lies between the second and the last one
    tests=${row##*|} rest=${row#*|} expression=${rest#*|}
    expression=${expression%|*}
    IFS=' ' name=$(echo $name) file=$(echo $file)
    expression=$(printf %s "$expression" | sed 's/^ *//; s/ *$//')
    if [ -n "$asked" ]; then
        wanted=
        for word in $asked; do case $name in *$word*) wanted=1 ;; esac; done
        [ -n "$wanted" ] || continue
    fi
    cp "$top/main/$file" "$top/kept"
    sed -i "$expression" "$top/main/$file"
    changed=$(diff "$top/kept" "$top/main/$file" | grep -c '^>' || true)
    if [ "$changed" -ne 1 ]; then
        echo "FAIL  $name: the fault fits $changed lines of $file, not one"
        exit 1
    fi
    code=0
    run_tests $tests || code=$?
    cp "$top/kept" "$top/main/$file"
    planted=$((planted + 1))
    case $code in
    1) echo "red   $name: $(sed -n 's/.*Test  *#[0-9]*: \([a-z_]*\) .*\*\*\*.*/\1/p' "$top/log" | head -1)" ;;
    0) echo "GREEN $name: nobody sees it ($tests)"; green=1 ;;
    *) echo "FAIL  $name: does not build"; tail -5 "$top/log"; exit 1 ;;
    esac
    IFS='
'
done
[ -n "$green" ] && exit 1
echo "$planted faults planted, every one seen"
