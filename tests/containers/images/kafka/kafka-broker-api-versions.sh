#!/bin/bash
# kafka-broker-api-versions.sh --bootstrap-server HOST:PORT. Sends an ApiVersions request (key 18, version 0) and waits
# for the answer's first byte. Kafka's own tool is in a jar that Candleflow doesn't use.
exec 3<>"/dev/tcp/${2%:*}/${2#*:}" && printf '\0\0\0\12\0\22\0\0\0\0\0\0\377\377' >&3 && read -r -d '' -t 5 -u 3
