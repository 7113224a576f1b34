#!/bin/sh
# Makes the secrets that compose.yaml mounts, each once; a file that exists is kept.
#
#   deploy/make-secrets.sh [FOLDER]     # default: secrets, beside compose.yaml
#
# The folder is closed to others; the files are not, since the containers read them under accounts of their own.
set -eu

folder=${1:-$(cd "$(dirname "$0")/.." && pwd)/secrets}
umask 022
mkdir -p "$folder"
chmod 0700 "$folder"

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
keep() { [ -s "$folder/$1" ] || printf '%s' "$2" > "$folder/$1"; }

keep postgres_password "$(random)"
keep planproof_store_url "postgresql://planproof:$(cat "$folder/postgres_password")@postgres:5432/planproof"
keep planproof_api_keys "[\"$(random)\"]"
echo "secrets are in $folder; requests need a key of planproof_api_keys"
