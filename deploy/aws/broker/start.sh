# Makes this machine one of the three brokers. The stack puts lines before it that set these variables:
# NODE_ID, NODES (how many), ZONE_NAME, REGION, CLUSTER_ID, HEAP, VOLUME_ID, BUNDLE (s3://...), AUTHORITY_KEY and
# AUTHORITY (ARNs of secrets), USERS (name=ARN, by commas), SIGNAL (where to report success). None of them is a secret.
# cloud-init runs it at every start of the machine, so each step may be repeated.
set -euo pipefail
exec > >(tee -a /var/log/candleflow-broker.log) 2>&1
umask 077

HOME_DIR=/opt/kafka
DATA=/var/lib/kafka
CERTIFICATES=/etc/kafka
NAME=kafka-$NODE_ID.$ZONE_NAME
export AWS_DEFAULT_REGION=$REGION

install_packages() {
    dnf install -y --quiet java-21-amazon-corretto-headless python3.11 python3.11-pip amazon-cloudwatch-agent unzip
    id kafka > /dev/null 2>&1 || useradd --system --home-dir "$DATA" --shell /sbin/nologin kafka
}

mount_data() { # the volume outlives the machine, so it is formatted only if it is empty
    device=/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_$(echo "$VOLUME_ID" | tr -d -)
    for _ in $(seq 150); do [ -e "$device" ] && break; sleep 2; done
    blkid "$device" > /dev/null || mkfs.xfs -q -L kafka "$device"
    mkdir -p "$DATA"
    grep -q "^LABEL=kafka " /etc/fstab || echo "LABEL=kafka $DATA xfs defaults,noatime,nofail 0 2" >> /etc/fstab
    mountpoint -q "$DATA" || mount "$DATA"
    mkdir -p "$DATA/records" "$CERTIFICATES"
    chown kafka:kafka "$DATA" "$DATA/records" "$CERTIFICATES"
}

fetch_bundle() {
    aws s3 cp --only-show-errors "$BUNDLE" /tmp/broker.zip
    rm -rf "$HOME_DIR" && mkdir -p "$HOME_DIR"
    unzip -q /tmp/broker.zip -d "$HOME_DIR"
    (cd "$HOME_DIR/jars" && sha256sum --check --quiet ../jars.sha256)
    python3.11 -m venv "$HOME_DIR/venv"
    "$HOME_DIR/venv/bin/pip" install --quiet --require-hashes -r "$HOME_DIR/requirements.lock"
    chmod -R go+rX "$HOME_DIR"
}

is_certificate() { grep -q -- "-----BEGIN CERTIFICATE-----" "$1" 2> /dev/null; }

read_secret() { # ARN, file: the secret is never in an argument or the environment
    aws secretsmanager get-secret-value --secret-id "$1" --query SecretString --output text > "$2"
}

make_authority() { # by the first broker, once: a key that signs the brokers' certificates, valid for ten years
    openssl req -x509 -newkey rsa:3072 -nodes -days 3650 -subj /CN=candleflow-authority \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign \
        -keyout "$CERTIFICATES/authority.key" -out "$CERTIFICATES/authority.pem" 2> /dev/null
    cat "$CERTIFICATES/authority.key" "$CERTIFICATES/authority.pem" > "$CERTIFICATES/authority.both"
    aws secretsmanager put-secret-value --secret-id "$AUTHORITY" --secret-string "file://$CERTIFICATES/authority.pem"
    aws secretsmanager put-secret-value --secret-id "$AUTHORITY_KEY" --secret-string "file://$CERTIFICATES/authority.both"
}

fetch_authority() {
    for _ in $(seq 120); do
        read_secret "$AUTHORITY_KEY" "$CERTIFICATES/authority.both"
        if is_certificate "$CERTIFICATES/authority.both"; then
            openssl x509 -in "$CERTIFICATES/authority.both" -out "$CERTIFICATES/authority.pem"
            return
        fi
        [ "$NODE_ID" = 1 ] && make_authority
        sleep 5
    done
    echo "no certificate authority in Secrets Manager after ten minutes: see the log of broker 1" && return 1
}

make_certificate() { # valid for a year; renewed at each start of the machine and by the monthly timer
    openssl req -newkey rsa:2048 -nodes -subj /CN=candleflow-broker \
        -keyout "$CERTIFICATES/broker.key" -out "$CERTIFICATES/broker.csr" 2> /dev/null
    printf 'subjectAltName=DNS:%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$NAME" > "$CERTIFICATES/broker.ext"
    openssl x509 -req -days 365 -in "$CERTIFICATES/broker.csr" -extfile "$CERTIFICATES/broker.ext" \
        -CA "$CERTIFICATES/authority.pem" -CAkey "$CERTIFICATES/authority.both" -CAcreateserial \
        -out "$CERTIFICATES/broker.crt" 2> /dev/null
    cat "$CERTIFICATES/broker.key" "$CERTIFICATES/broker.crt" > "$CERTIFICATES/keystore.pem"
    rm -f "$CERTIFICATES/authority.key" "$CERTIFICATES/authority.both" "$CERTIFICATES"/broker.{key,crt,csr,ext}
    chown kafka:kafka "$CERTIFICATES"/*.pem
}

configure() {
    voters= replication=$NODES
    for node in $(seq "$NODES"); do voters=$voters${voters:+,}$node@kafka-$node.$ZONE_NAME:9093; done
    sed -e "s|@NODE_ID@|$NODE_ID|" -e "s|@VOTERS@|$voters|" -e "s|@DATA_DIR@|$DATA/records|" \
        -e "s|@LISTENERS@|BROKERS://:9092,CONTROLLER://:9093,PROGRAMS://:9094|" \
        -e "s|@ADVERTISED@|BROKERS://$NAME:9092,PROGRAMS://$NAME:9094|" \
        -e "s|@KEYSTORE@|$CERTIFICATES/keystore.pem|" -e "s|@TRUSTSTORE@|$CERTIFICATES/authority.pem|" \
        -e "s|@REPLICATION@|$replication|" -e "s|@IN_SYNC@|$((replication - 1))|" \
        "$HOME_DIR/server.properties" > "$CERTIFICATES/server.properties"
    chown kafka:kafka "$CERTIFICATES/server.properties"
    runuser -u kafka -- java -cp "$HOME_DIR/jars/*" kafka.tools.StorageTool format --ignore-formatted \
        --cluster-id "$CLUSTER_ID" --config "$CERTIFICATES/server.properties"
}

install_services() {
    cat > /etc/systemd/system/kafka.service <<UNIT
[Unit]
After=network-online.target
RequiresMountsFor=$DATA
[Service]
User=kafka
ExecStart=/usr/bin/java -Xms$HEAP -Xmx$HEAP -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:+ExitOnOutOfMemoryError -Dlog4j2.configurationFile=$HOME_DIR/log4j2.xml -cp $HOME_DIR/jars/* kafka.Kafka $CERTIFICATES/server.properties
Restart=always
RestartSec=5
LimitNOFILE=100000
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths=$DATA
PrivateTmp=yes
[Install]
WantedBy=multi-user.target
UNIT
    # Renews the certificate each month, on another day for each broker, so that two are never down at once.
    cat > /etc/systemd/system/kafka-certificate.service <<UNIT
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/candleflow-broker
UNIT
    cat > /etc/systemd/system/kafka-certificate.timer <<UNIT
[Timer]
OnCalendar=*-*-0$NODE_ID 03:00:00
[Install]
WantedBy=timers.target
UNIT
    cat > /opt/aws/amazon-cloudwatch-agent/etc/candleflow.json <<AGENT
{"metrics": {"namespace": "Candleflow",
  "append_dimensions": {"InstanceId": "\${aws:InstanceId}"}, "aggregation_dimensions": [["InstanceId"]],
  "metrics_collected": {"disk": {"measurement": ["used_percent"], "resources": ["$DATA"], "drop_device": true}}}}
AGENT
    /opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent-ctl -a fetch-config -m ec2 -s \
        -c file:/opt/aws/amazon-cloudwatch-agent/etc/candleflow.json > /dev/null
    systemctl daemon-reload
    systemctl enable --quiet kafka.service kafka-certificate.timer
    systemctl start kafka-certificate.timer
    systemctl restart kafka.service
}

wait_until_it_listens() {
    for _ in $(seq 120); do
        if (exec 3<> "/dev/tcp/$NAME/9094") 2> /dev/null; then return; fi
        sleep 5
    done
    echo "Kafka does not listen on port 9094 after ten minutes: see journalctl -u kafka" && return 1
}

add_users() { # one program reads the passwords from Secrets Manager and sends hashes to Kafka
    "$HOME_DIR/venv/bin/python" "$HOME_DIR/users.py" --bootstrap "$NAME:9092" --region "$REGION" \
        --authority "$CERTIFICATES/authority.pem" --keystore "$CERTIFICATES/keystore.pem" --users "$USERS"
}

install -m 700 "$0" /usr/local/sbin/candleflow-broker.new && mv /usr/local/sbin/candleflow-broker{.new,}
install_packages
mount_data
fetch_bundle
fetch_authority
make_certificate
configure
install_services
wait_until_it_listens
if [ "$NODE_ID" = 1 ]; then add_users; fi
/opt/aws/bin/cfn-signal --success true --id "kafka-$NODE_ID" "$SIGNAL" || echo "CloudFormation has this signal already"
