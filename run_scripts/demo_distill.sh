#!/usr/bin/env bash
# Does distillation help? On the demo data, for three tasks: a larger teacher, a tiny model without it, and a tiny
# student distilled from it for as many steps; three seeds of both. Ends with a table and a plot.
#
#   run_scripts/demo_distill.sh [FOLDER] [TASK ...]
#
# Finished runs in FOLDER are not repeated, so the same command continues an interrupted experiment.
# JOBS runs at the same time (2), with OMP_NUM_THREADS threads each (1).
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:-outputs/demo_distill}
shift || true
tasks=${*:-refcoco caption snli_ve}
python=${PYTHON:-python}
jobs=${JOBS:-2}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

declare -A teacher_steps=([refcoco]=700 [caption]=220 [snli_ve]=700)
declare -A student_steps=([refcoco]=250 [caption]=120 [snli_ve]=200)

train() {  # train RUN OVERRIDE...
  local run=$folder/$1
  shift
  if [[ ! -f $run/metrics.json ]]; then
    mkdir -p "$run"
    echo "$(date +%T) $run"
    "$python" train.py "$@" resume=auto hydra.run.dir="$run" >"$run/output.txt" 2>&1 || { echo "failed: $run/output.txt" >&2; exit 1; }
  fi
}

finish() {  # wait for all; a failed run ends the script
  local run
  for run in $(jobs -p); do wait "$run"; done
}

start() {  # start a run when fewer than JOBS are running
  while (($(jobs -rp | wc -l) >= jobs)); do wait -n; done
  train "$@" &
}

for task in $tasks; do
  start "$task/teacher" task="$task" model=medium optim.lr=2.5e-4 trainer.max_steps="${teacher_steps[$task]}" validate_every=100
done
for task in $tasks; do
  student=(task="$task" model=tiny trainer.max_steps="${student_steps[$task]}" validate_every=50)
  for seed in 1 2 3; do start "$task/plain_$seed" "${student[@]}" seed="$seed"; done
done
finish
for task in $tasks; do
  student=(task="$task" model=tiny trainer.max_steps="${student_steps[$task]}" validate_every=50)
  for seed in 1 2 3; do
    start "$task/distilled_$seed" "${student[@]}" seed="$seed" distill=hidden distill.teacher="$folder/$task/teacher"
  done
done
finish
"$python" run_scripts/demo_distill_report.py "$folder"
