#!/usr/bin/env bash
# A worker of Sluice that nobody needs to reach: it takes its calls itself. It needs curl and jq. AGENTS.md has the contract.
set -euo pipefail

# total is what the node of that name does: from the body of a message to the body of the next one.
total() {
    jq -c 'if .quantity > 0 then {total: (.price * .quantity)} else "quantity must be more than 0" | halt_error end'
}

# work does an action. What it writes is the answer, or with a status other than 0 the reason why there is none.
work() {
    case $1 in
        /total) total 2>&1 ;;
        *) echo "no such action" && return 1 ;;
    esac
}

# ask sends standard input to an operation of Sluice. The key is no argument, for those are seen by all on a machine.
ask() {
    curl -fsS --max-time 60 --data-binary @- -H 'Content-Type: application/json' \
        -H @<(printf 'Authorization: Bearer %s' "$SLUICE_API_KEY") "${SLUICE_URL:-http://127.0.0.1:8080}/v1/workers/shop/$1"
}

# answer makes what Sluice is told of a call: as an HTTP server would answer it, with a status and a body.
answer() {
    local body status=200 type=application/json
    body=$(jq -j .body <<<"$1" | work "$(jq -r .path <<<"$1")") || { status=422 type=text/plain; } # it would not help to try again
    jq -c --arg body "$body" --argjson status $status --arg type $type \
        '{results: [{id, token, status: $status, headers: {"Content-Type": $type}, body: $body}]}' <<<"$1"
}

run() {
    while true; do
        call=$(ask claim <<<'{"wait_seconds": 30, "lease_seconds": 60}' | jq -c '.calls[0] // empty') || sleep 2
        [[ -z ${call:-} ]] || answer "$call" | ask result >/dev/null || sleep 2 # what is not answered is offered again
    done
}

[[ ${BASH_SOURCE[0]} != "$0" ]] || run
