#!/bin/bash
# One table of kernels on an emulated CPU that has it and no better one: the table is found, its native tests pass
# without the largest shapes, and a checkpoint's answers are right in each of its dtypes: int8 from the folder that
# another CPU packed, since calibrating takes minutes here.
#
# usage: run.sh CPU TABLE CHECKPOINT PACKED
set -euo pipefail
export CPU=$1 DISTILRT_NUM_THREADS=1
table=$2 checkpoint=$3 packed=$4 python=tests/arm/python
dtypes=$("$python" -P -c "from distilrt import _C; print(*_C.dtypes(_C.available_isas()[0]) if _C.available_isas()[0] == '$table' else '')")
[ -n "$dtypes" ] || { echo "$CPU does not get $table: $("$python" -P -m distilrt info --json)" >&2; exit 1; }
"$python" -P -m pytest -q -p no:cacheprovider --confcutdir tests/csrc \
  tests/csrc/test_{isas,gemm,dtypes,layer_norm,attention}.py \
  -k "(this_cpu or $table- or $table]) and not (300-31 or 129-48 or 130-100 or 127-100 or over_its_range)"
texts=$(mktemp)
printf '%s\n' 'The cat sat on the mat.' 'Yes.' > "$texts"
for dtype in $dtypes; do
  echo "$CPU, $table, $dtype:"
  if [ "$dtype" = int8 ]; then
    "$python" -P -m distilrt verify "$packed" --against "$checkpoint" --texts "$texts"
  else
    "$python" -P -m distilrt verify "$checkpoint" --texts "$texts" --dtype "$dtype"
  fi
done
rm "$texts"
