#!/usr/bin/env bash
# Installs what the tests need beside Python packages. Each thing that cannot be had is named, and its tests are skipped.
set -u

missing() { echo "tests: $1 is not available here and could not be installed: $2" >&2; }

install() { # COMMAND PACKAGE...
  command -v "$1" >/dev/null 2>&1 && return 0
  local command=$1 && shift
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    missing "$command" "install the package $* by hand"
    return 1
  fi
  echo "tests: installing $* ..."
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } >/tmp/inference-engine-apt.log 2>&1 \
    || { missing "$command" "see /tmp/inference-engine-apt.log"; return 1; }
}

npm_client() { # PACKAGE@VERSION FOLDER
  [ -d "$2/node_modules/${1%@*}" ] && return 0
  command -v npm >/dev/null 2>&1 || { missing "the npm package $1" "install Node.js with npm"; return 1; }
  mkdir -p "$2" && (cd "$2" && timeout 180 npm install --no-audit --no-fund --silent "$1" >/tmp/inference-engine-npm.log 2>&1) \
    || { missing "the npm package $1" "see /tmp/inference-engine-npm.log"; return 1; }
}

install chromium chromium fonts-dejavu-core
npm_client openai@6.49.0 "$(dirname "$0")/../build/npm-openai"
exit 0
