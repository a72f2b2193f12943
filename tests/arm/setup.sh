#!/bin/bash
# Unpacks what `make test-arm` needs into build/arm and installs nothing: Debian's emulator and cross compiler, Debian's
# arm64 Python, and the wheels that the tests import. apt keeps its state there too, so nobody need be root.
#
# usage: setup.sh PYTHON, which has pip
set -euo pipefail
trap 'echo "test-arm needs apt-get, dpkg and the network, to download Debian packages of amd64 and arm64" >&2' ERR
python=$1 build=$PWD/build/arm
rm -rf "$build"
mkdir -p "$build/lists/partial"

# Downloads packages and what they need beyond those in a dpkg status file, and unpacks them into $build/NAME.
unpack() {
  local name=$1 status=$2
  shift 2
  mkdir -p "$build/$name" "$build/$name-packages/archives/partial"
  cat > "$build/$name.conf" <<CONF
APT::Architecture "$architecture";
APT::Architectures { "amd64"; "arm64"; };
Dir::State "$build";
Dir::State::lists "$build/lists";
Dir::State::status "$status";
Dir::Cache "$build/$name-packages";
CONF
  APT_CONFIG=$build/$name.conf apt-get -qq update
  APT_CONFIG=$build/$name.conf apt-get -qq -y --no-install-recommends --download-only install "$@" > /dev/null
  for package in "$build/$name-packages"/archives/*.deb; do dpkg -x "$package" "$build/$name"; done
  rm -r "$build/$name-packages"
}

# The compiler's and the emulator's libraries are amd64's own; where this system has the programs, they are used.
architecture=amd64
for program in qemu-aarch64:qemu-user aarch64-linux-gnu-g++:g++-aarch64-linux-gnu; do
  command -v "${program%%:*}" > /dev/null || wanted+=("${program#*:}")
done
[ -z "${wanted+set}" ] || unpack tools /var/lib/dpkg/status "${wanted[@]}"

architecture=arm64
touch "$build/nothing-installed"
unpack root "$build/nothing-installed" python3-minimal libpython3-stdlib libpython3-dev libstdc++6

version=$(basename "$(readlink "$build/root/usr/bin/python3")")
"$python" -m pip --disable-pip-version-check install -q -c constraints.txt --target "$build/site" \
  --python-version "${version#python}" --implementation cp --only-binary=:all: \
  --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
  numpy safetensors tokenizers huggingface_hub typer rich tqdm setuptools pybind11 pytest
