#!/usr/bin/env bash
# Answers some calls as Sluice would be told. It needs no Sluice.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./worker.sh

# check PATH BODY WANT says if a call is not answered as it should be.
check() {
    local call got
    call=$(jq -nc --arg path "$1" --arg body "$2" '{id: "1", token: "2", path: $path, body: $body}')
    got=$(answer "$call" | jq -c '.results[0] | [.status, .body]')
    [[ $got == "$3" ]] || { echo "$1 $2: $got, want $3" && exit 1; }
}

check /total '{"price": 2.5, "quantity": 4}' '[200,"{\"total\":10}"]'
check /total '{"price": 2.5, "quantity": 0}' '[422,"quantity must be more than 0"]'
check /other '{}' '[422,"no such action"]'
echo ok
