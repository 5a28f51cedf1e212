#!/bin/sh
# Runs fuzz targets, each for so many seconds or executions, on top of the seeds and of what earlier runs found:
#   tests/fuzz/run.sh BUILD SECONDS [TARGET…]          RUNS=10000000 tests/fuzz/run.sh BUILD 0 gguf
# Inputs that are findings stay in BUILD/findings. An input may take TIMEOUT = 10 s (usually microseconds; more where this is stopped for a while), 512 MB in all, 64 MB in one piece.
set -e
build=$1 seconds=$2
shift 2
targets=${*:-adapter chat checkpoint gguf images json model pairs picture safetensors text tokenizer}
mkdir -p "$build/findings"
"$build/tests/fuzz/seeds" "$build/seeds" "$(dirname "$0")/../.."
# Short call stacks and a small quarantine of freed memory: allocating is most of an input's time.
export ASAN_OPTIONS=detect_stack_use_after_return=0:malloc_context_size=2:quarantine_size_mb=16 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
failed=0
for target in $targets; do
  corpus=$build/corpus/$target
  mkdir -p "$corpus"
  log=$build/findings/$target.log
  most=4096
  case $target in images) most=8192;; model) most=65536;; tokenizer|adapter) most=8192;; esac
  if "$build/tests/fuzz/${target}_fuzz" -max_total_time="$seconds" -runs="${RUNS:--1}" -max_len=$most -timeout="${TIMEOUT:-10}" -rss_limit_mb=512 -malloc_limit_mb=64 \
      -print_final_stats=1 -artifact_prefix="$build/findings/$target-" "$corpus" "$build/seeds/$target" >"$log" 2>&1; then
    awk -v t="$target" '/^Done/ { runs = $2; s = $5 } /^#[0-9]+\tDONE/ { for (i = 1; i < NF; ++i) if ($i == "cov:") cov = $(i + 1) }
      END { printf "%-12s %12d executions in %6d s, %6d edges: no finding\n", t, runs, s, cov }' "$log"
  else
    failed=1
    printf '%-12s a finding:\n' "$target"
    grep -m 20 -E 'ERROR|FINDING|SUMMARY|runtime error|Test unit written' "$log" || tail -n 20 "$log"
  fi
done
exit $failed
