#!/usr/bin/env bash
# Prepares what benchmarks/gpu.py needs on a GPU machine without a network and without Ray, and prints the line to run
# there: wheels for Python 3.12 of what it lacks (benchmarks/gpu_machine_there.txt says what it has), lookonce's own,
# DeiT-Tiny's weights, photographs and Tiny ImageNet.
#
# Everything goes to .gpu, which git ignores; it travels with the checkout, and both together may have 64 MiB.
set -euo pipefail
cd "$(dirname "$0")/.."
box=.gpu
data=${LOOKONCE_DATA_DIR:-../shared/data}
python=.venv/bin/python
limit=$((64 << 20))
test -x $python || { echo "error: no $python: run make test once, or make .venv as the Makefile does" >&2; exit 1; }
test -d "$data/tiny_imagenet" || { echo "error: no tiny_imagenet in $data: set LOOKONCE_DATA_DIR" >&2; exit 1; }

rm -rf "$box"
mkdir -p "$box/wheels" "$box/data/tiny_imagenet"
lists=$(mktemp -d)
trap 'rm -rf "$lists"' EXIT

# What lookonce needs but Ray, in versions that go with those that the machine has; then what it lacks of that.
$python - > "$lists/needed.in" <<'PYTHON'
import tomllib

with open("pyproject.toml", "rb") as file:
    needed = tomllib.load(file)["project"]["dependencies"]
print("\n".join(one for one in needed if not one.startswith("ray")))
PYTHON
grep '==' benchmarks/gpu_machine_there.txt > "$lists/constraints.txt"
$python -m uv pip compile --quiet --python-version 3.12 --python-platform x86_64-manylinux_2_28 --no-annotate \
    --no-header -c "$lists/constraints.txt" "$lists/needed.in" -o "$lists/needed.txt"
grep -v '^#' benchmarks/gpu_machine_there.txt | sed 's/==.*//' | sort > "$lists/there.txt"
sed 's/ *;.*//' "$lists/needed.txt" | while read -r wheel; do
    grep -qx "${wheel%%==*}" "$lists/there.txt" || echo "$wheel"
done > "$lists/lacking.txt"
platforms=()
for number in 2_34 2_31 2_28 2_27 2_24 2_17 2014 2_12 2010 2_5 1; do  # pip matches each name as it is
    platforms+=(--platform "manylinux${number/#2_/_2_}_x86_64")
done
$python -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    "${platforms[@]}" -d "$box/wheels" -r "$lists/lacking.txt" 2> >(grep -v WARNING >&2)
$python -m pip wheel --quiet --no-deps -w "$box/wheels" . 2> >(grep -v WARNING >&2)

cp "$data/deit_tiny_patch16_224.safetensors" "$box/data/"
cp -r "$data/photos" "$box/data/"
for split in train test; do
    gzip -c "$data/tiny_imagenet/$split.tar" > "$box/data/tiny_imagenet/$split.tar.gz"  # a third of it is headers
done

bytes() { xargs -0 stat -c %s | awk '{ total += $1 } END { print total }'; }
carried=$(find "$box" -type f -print0 | bytes)
tree=$(git ls-files -z --cached --others --exclude-standard | bytes)
echo "$box: $((carried / 1024 / 1024)) MiB, $(ls "$box/wheels" | wc -l) wheels; the checkout: $((tree / 1024 / 1024)) MiB"
if ((carried + tree > limit)); then
    echo "error: together they are more than the $((limit >> 20)) MiB that may travel; leave out some images" >&2
    exit 1
fi
echo "to carry: $box. To run in the root of the checkout there, with OUT set:"
echo "python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site" \
    "$box/wheels/*.whl && PYTHONPATH=/tmp/site LOOKONCE_DATA_DIR=\$PWD/$box/data" \
    "python3 benchmarks/gpu.py --minutes 9 --out \$OUT/gpu"
