#!/usr/bin/env bash
# tools/results.sh OUT [more options of compare]: makes the tables of docs/results.md "On the larger sets" anew.
#
# Every installed strategy against the full model, with paired differences, Holm-corrected: what shortens the sequence at equal FLOPs,
# what evicts keys and values at equal bytes, and budgets that follow content. Goes on where it stopped when it is called again with
# the same OUT; parts share finished cells (OUT/store) and encoded clips (the feature cache). Each part is put into the page once it is
# finished. Hours on two cores: docs/results.md says how that is made up.
#
#   tools/results.sh OUT --limit 4 --strategies uniform,weighted   a trial: nothing is put into the page
#   RESULTS_PAGE=copy.md tools/results.sh OUT                      another page with the same marks
#   RESULTS_WORKERS=1 tools/results.sh OUT                         one worker
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?"tools/results.sh OUT: OUT is the folder for the results"}
shift
page=${RESULTS_PAGE:-docs/results.md}
workers=${RESULTS_WORKERS:-2}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export FASTADASP_FEATURES=${FASTADASP_FEATURES:-6GB}
trial=("$@")
code=0

# part NAME PLACE CLIPS OPTIONS...: one comparison in OUT/NAME, put into the page's place if it has one; CLIPS is "whole" or a number,
# and gives way to a trial's --limit. 1 is the exit code of a comparison in which some strategies cannot remove as much as some
# budget asks for.
part() {
  local name=$1 place=$2 clips=$3 got=0
  shift 3
  local own=(--limit "$clips") into=()
  [ "$clips" != whole ] || own=(--whole)
  [[ " ${trial[*]-} " != *" --limit "* ]] || own=()
  [ ${#trial[@]} != 0 ] || [ -z "$place" ] || into=(--insert "$page#$place")
  echo "== $name"
  fastadasp compare "$@" --batch-size 36 --store "$out/store" --output "$out/$name" ${own[@]+"${own[@]}"} \
    ${into[@]+"${into[@]}"} ${trial[@]+"${trial[@]}"} || got=$?
  [ "$got" -le 1 ] || exit "$got"
  [ "$got" = 0 ] || code=1
}
# encode NAME CLIPS TASKS: the encoder runs once for each clip; what is kept, its attention too, is used by every part, and so are
# these cells.
encode() {
  (part "$1" "" "$2" --tasks "$3" --budgets flops=0.5 --strategies sa-map-encoder) >/dev/null
}
several=(--power)
[ "$workers" -le 1 ] || several+=(--executor processes --workers "$workers")

encode encode-asr whole asr &
first=$!
encode encode-more 150 asr-noise,asr-fast
encode encode-others whole er,sqa,gender
wait "$first"
part flops field-flops whole --preset field-flops --tasks asr,er,sqa,gender --budgets flops=0.3,flops=0.5 "${several[@]}"
part uniform field-uniform whole --preset field-flops --tasks asr --budgets flops=0.3,flops=0.5 --baseline uniform \
  "${several[@]}"
part kv field-kv 300 --preset field-kv --tasks asr --budgets kv=0.3,kv=0.5 "${several[@]}"
part content content 300 --strategies affinity-pooling,weighted,average-merge,dual-affinity-pooling --tasks asr \
  --budgets flops=0.5,mean-flops=0.5 "${several[@]}"
part flops-more field-flops-more 150 --preset field-flops --tasks asr-noise,asr-fast,st --budgets flops=0.5 "${several[@]}"
part uniform-more field-uniform-more 150 --preset field-flops --tasks asr-noise,asr-fast,st --budgets flops=0.5 \
  --baseline uniform "${several[@]}"
exit "$code"
