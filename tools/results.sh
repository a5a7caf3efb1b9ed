#!/usr/bin/env bash
# tools/results.sh OUT [more options of compare]: makes the tables of docs/results.md "On the larger sets" anew.
#
# Every installed strategy on all clips to report on of the packaged tasks, with paired differences, Holm-corrected. Goes on where it
# stopped when it is called again with the same OUT. Tables are put into the page only once a part is finished. For a trial on fewer
# clips: tools/results.sh OUT --limit 40 (it is not put into the page).
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?"tools/results.sh OUT: OUT is the folder for the results"}
shift
tasks=asr,asr-noise,asr-fast,st,er,sqa,gender
into=(--whole --insert docs/results.md)
[ $# = 0 ] || into=("$@")
code=0
fastadasp compare --preset field-flops --tasks "$tasks" --budgets flops=0.1,0.3,0.5 --batch-size 36 --power --output "$out/flops" \
  "${into[@]}" || code=$?
[ "$code" -le 1 ] || exit "$code" # 1: some strategies cannot remove as much as some budgets ask for
fastadasp compare --preset field-kv --tasks "$tasks" --budgets kv=0.1,0.3,0.5 --batch-size 36 --power --output "$out/kv" \
  "${into[@]}" || code=$?
exit "$code"
