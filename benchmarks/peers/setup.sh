#!/bin/sh
# Makes the peers' environments: .venv-cornac and .venv-rectools in the root of the repository, with pinned versions.
#
#     sh benchmarks/peers/setup.sh            both (about 3 GB together with the CPU build of torch)
#     sh benchmarks/peers/setup.sh rectools   one of them
#
# PYTHON=<interpreter>   Python 3.11 or 3.12; python3 where not given
# TORCH_INDEX=<address>  take torch from that package index, as for make
#
# They lie in the root, not in this folder, since the rules of the project read every Python file below benchmarks.
set -eu
cd "$(dirname "$0")/../.."
for peer in ${*:-cornac rectools}; do
    pins=benchmarks/peers/requirements-$peer.txt
    test -f "$pins" || { echo "there is no peer $peer: cornac or rectools" >&2; exit 1; }
    if test -f ".venv-$peer/.ready" && cmp -s "$pins" ".venv-$peer/.ready"; then
        echo ".venv-$peer is up to date"
        continue
    fi
    echo "making .venv-$peer"
    rm -rf ".venv-$peer"
    "${PYTHON:-python3}" -m venv ".venv-$peer"
    pip=".venv-$peer/bin/python -m pip --disable-pip-version-check install -qq --no-compile"
    $pip ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -r requirements/torch.txt
    $pip -r "$pins"
    ".venv-$peer/bin/python" -m pip --disable-pip-version-check check
    cp "$pins" ".venv-$peer/.ready"
done
