#!/usr/bin/env bash
# What only a GPU can show, on one card and without a network, in at most nine minutes (tests/gpu/README.md).
#   bash tests/gpu/run.sh          on the card
#   bash tests/gpu/run.sh --cpu    the same steps with tiny models on CPUs: does the script itself work?
#   bash tests/gpu/run.sh --dry    nothing is run but each step's own check of what it was given
set -u
cd "$(dirname "$0")/../.."
export HF_HUB_OFFLINE=1 RAY_AUTH_MODE=disabled RAY_USAGE_STATS_ENABLED=0 VLLM_NO_USAGE_STATS=1
export PYTHONPATH="$PWD:$PWD/tests${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" tests/gpu/steps.py "$@"
