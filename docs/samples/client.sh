#!/bin/sh
# Requests with a Latchkey API key: sh client.sh URL [COUNT]
#
# The key is read from LATCHKEY_KEY and reaches curl over a pipe, so that it is in no command line.
# After 429 or 503, --retry waits for Retry-After (curl 7.66 or later). A status such as 401 or 403
# ends the script.
set -eu
for _ in $(seq "${2:-1}"); do
	printf 'header = "Authorization: Bearer %s"\n' "$LATCHKEY_KEY" |
		curl --config - --silent --show-error --fail --retry 5 --max-time 300 "$1"
	echo
done
