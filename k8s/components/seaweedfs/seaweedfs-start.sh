#!/bin/sh
# Start SeaweedFS with three accounts: root, the service's (reads models) and the pipeline's (reads and writes the bucket). The
# file of accounts is written at every start, so that after a rotation the old keys open nothing. Runs in the image (busybox).
set -eu

accounts=${ACCOUNTS_FILE:-/run/seaweedfs/s3.json}
place=${EOLGUL_REGISTRY#s3://}
bucket=${place%%/*}
below=${place%/}
for value in "$MINIO_ROOT_USER" "$MINIO_ROOT_PASSWORD" "$SERVING_S3_ACCESS_KEY" "$SERVING_S3_SECRET_KEY" \
    "$PIPELINE_S3_ACCESS_KEY" "$PIPELINE_S3_SECRET_KEY" "$place"; do
    case $value in
        '' | *[!A-Za-z0-9._~/-]*)
            echo "seaweedfs-start: a name, a secret or the registry is empty or has other characters than letters, digits and . _ ~ - /" >&2
            exit 2
            ;;
    esac
done

umask 077
cat >"$accounts" <<JSON
{"identities": [
  {"name": "root", "credentials": [{"accessKey": "$MINIO_ROOT_USER", "secretKey": "$MINIO_ROOT_PASSWORD"}], "actions": ["Admin"]},
  {"name": "serving", "credentials": [{"accessKey": "$SERVING_S3_ACCESS_KEY", "secretKey": "$SERVING_S3_SECRET_KEY"}],
   "actions": ["List:$bucket", "Read:$below/models/*", "Read:$below/signatures/*", "Read:$below/production.json*"]},
  {"name": "pipeline", "credentials": [{"accessKey": "$PIPELINE_S3_ACCESS_KEY", "secretKey": "$PIPELINE_S3_SECRET_KEY"}],
   "actions": ["Read:$bucket", "Write:$bucket", "List:$bucket", "Tagging:$bucket"]}
]}
JSON
unset MINIO_ROOT_PASSWORD SERVING_S3_SECRET_KEY PIPELINE_S3_SECRET_KEY

# One process for all roles. Only S3 is reached from outside the pod: the others listen on the loopback interface.
exec weed -logtostderr=true server -dir="${DATA_DIR:-/data}" -ip=127.0.0.1 -ip.bind=127.0.0.1 -s3.ip.bind="${BIND:-0.0.0.0}" \
    -master.volumeSizeLimitMB=1024 -volume.max=0 -volume.preStopSeconds=1 -master.telemetry=false \
    -filer -s3 -s3.port="${PORT:-8333}" -s3.config="$accounts" -s3.port.iceberg=0 -s3.port.lance=0 "$@"
