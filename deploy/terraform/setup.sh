#!/usr/bin/env bash
# Run once by cloud-init on the instance, as root: mounts the disks, installs roadstead, starts it. It may run again.
set -euo pipefail
# shellcheck source=/dev/null
. /etc/roadstead/setup.env

# mount_disk DEVICE DIRECTORY: a disk with nothing on it gets a file system; any other is left as it is.
mount_disk() {
    local tries
    # The state's disk is attached after the instance has started.
    for ((tries = 0; tries < 300; tries++)); do
        [[ ! -b $1 ]] || break
        sleep 1
    done
    [[ -b $1 ]] || { echo "roadstead-setup: no disk $1" >&2 && return 1; }
    blkid "$1" >/dev/null || mkfs.ext4 -q "$1"
    grep -q " $2 " /etc/fstab ||
        echo "UUID=$(blkid -s UUID -o value "$1") $2 ext4 noatime,nofail 0 2" >>/etc/fstab
    mkdir -p "$2"
    mountpoint -q "$2" || mount "$2"
}

if [[ $URL == *.deb ]]; then
    # The package's user is there for good, and systemd gives the directories to it.
    private=
else
    # With DynamicUser, systemd keeps the directories of services here, and links to them; the parents are root's alone.
    private=/private
    install -d -m 0700 /var/lib/private /var/cache/private
fi
mount_disk "$STATE_DEVICE" "/var/lib$private/roadstead"
mount_disk "$CACHE_DEVICE" "/var/cache$private/roadstead"

file=$(mktemp)
trap 'rm -f "$file"' EXIT
curl -fsSL --retry 5 --retry-connrefused -o "$file" "$URL"
echo "$SHA256  $file" | sha256sum --check --quiet
if [[ $URL == *.deb ]]; then
    # The package brings its own unit; this one would hide it.
    rm -f /etc/systemd/system/roadstead.service
    # apt wants a name that ends like this, and its user has to read it. A configuration that is there is kept.
    chmod 0644 "$file" && mv "$file" "$file.deb"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -o Dpkg::Options::=--force-confold "$file.deb"
    rm -f "$file.deb"
else
    install -m 0755 "$file" /usr/local/bin/roadstead
fi
# Without its disks it must not start: it would begin with an empty state on the system's disk.
mkdir -p /etc/systemd/system/roadstead.service.d
cat >/etc/systemd/system/roadstead.service.d/disks.conf <<UNIT
[Unit]
RequiresMountsFor=/var/lib$private/roadstead /var/cache$private/roadstead
UNIT
systemctl daemon-reload
systemctl enable roadstead
systemctl restart roadstead
