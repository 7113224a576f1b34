#!/bin/sh
# Installs planproof, in the versions that are tested, into a virtual environment of its own. The container image, a
# bare machine and the tests all do it with this script. Needs Python 3.11 or newer with venv; no compiler.
#
#   deploy/install.sh PREFIX [EXTRA]     # for instance: deploy/install.sh /opt/planproof telemetry
#
# PYTHON names the interpreter (default python3). The environment keeps no pip: add plugins from outside with
# `python3 -m pip --python PREFIX/bin/python install ...`.
set -eu

[ $# -ge 1 ] || { echo "usage: deploy/install.sh PREFIX [EXTRA]" >&2; exit 2; }
prefix=$1
extra=${2:+[$2]}
source=$(cd "$(dirname "$0")/.." && pwd)
python=$prefix/bin/python

"${PYTHON:-python3}" -m venv --clear "$prefix"
pip="$python -m pip --quiet --disable-pip-version-check --no-input"
# All that planproof needs comes as wheels: a package that would have to be compiled is a mistake.
$pip install --no-cache-dir --only-binary :all: --requirement "$source/requirements.lock"
# The extra's packages in the tested versions too. The wheel itself is built from the sources beside this script.
$pip install --no-cache-dir --constraint "$source/requirements-dev.lock" "$source$extra"
$pip check
install -m 0755 "$source/deploy/healthcheck.py" "$prefix/bin/planproof-healthcheck"
sed -i "1s|.*|#!$python|" "$prefix/bin/planproof-healthcheck"
$pip uninstall --yes pip setuptools
"$prefix/bin/planproof" --version
