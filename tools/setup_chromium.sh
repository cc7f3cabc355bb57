#!/usr/bin/env bash
# Installs Chromium, with apt-get, for the tests that look at pages as a reader does, where that is
# allowed; says why where it is not.
set -euo pipefail

if command -v chromium > /dev/null || command -v google-chrome > /dev/null; then exit 0; fi
if ! command -v apt-get > /dev/null || [ "$(id -u)" != 0 ]; then
    echo "setup: no chromium, and no root with apt-get here to install it" >&2
    exit 2
fi
echo "setup: installing chromium"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install -y --no-install-recommends chromium fonts-dejavu-core > /dev/null
