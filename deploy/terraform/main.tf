# One roadstead in a VPC: an instance with a disk for the cache and one for the state, and a private name.

locals {
  # Only then may anybody outside the instance ask the admin listener; the security group lets those networks alone in.
  admin_address = length(var.monitoring_cidrs) > 0 ? "0.0.0.0" : "127.0.0.1"

  config = <<-TOML
    [server]
    listen = "0.0.0.0:5000"
    admin_listen = "${local.admin_address}:5001"
    [state]
    dir = "/var/lib/roadstead"
    [cache]
    dir = "/var/cache/roadstead"
    max_size = "90%"
    ${var.config}
  TOML

  # The serial number that the instance sees is the disk's id without its prefix.
  state_device = "/dev/disk/by-id/virtio-${trimprefix(alicloud_ecs_disk.state.id, "d-")}"
}

data "alicloud_vswitches" "mirror" {
  ids = [var.vswitch_id]
}

data "alicloud_images" "debian" {
  owners       = "system"
  name_regex   = "^debian_12_.*_x64_"
  architecture = "x86_64"
  most_recent  = true
}

resource "alicloud_security_group" "mirror" {
  security_group_name = var.name
  description         = "Nodes pull from roadstead"
  vpc_id              = var.vpc_id
  tags                = var.tags
}

resource "alicloud_security_group_rule" "clients" {
  for_each = toset(var.client_cidrs)

  security_group_id = alicloud_security_group.mirror.id
  type              = "ingress"
  nic_type          = "intranet"
  ip_protocol       = "tcp"
  port_range        = "5000/5000"
  cidr_ip           = each.value
}

resource "alicloud_security_group_rule" "monitoring" {
  for_each = toset(var.monitoring_cidrs)

  security_group_id = alicloud_security_group.mirror.id
  type              = "ingress"
  nic_type          = "intranet"
  ip_protocol       = "tcp"
  port_range        = "5001/5001"
  cidr_ip           = each.value
}

# Not one of the instance's data_disks, so that it stays when the instance is replaced.
resource "alicloud_ecs_disk" "state" {
  zone_id   = data.alicloud_vswitches.mirror.vswitches[0].zone_id
  disk_name = "${var.name}-state"
  category  = "cloud_essd"
  size      = var.state_disk_gib
  encrypted = true
  tags      = var.tags

  lifecycle {
    prevent_destroy = true
  }
}

resource "alicloud_instance" "mirror" {
  instance_name              = var.name
  host_name                  = var.name
  instance_type              = var.instance_type
  image_id                   = data.alicloud_images.debian.images[0].id
  vswitch_id                 = var.vswitch_id
  security_groups            = [alicloud_security_group.mirror.id]
  internet_max_bandwidth_out = var.internet_mbps
  key_name                   = var.key_pair == "" ? null : var.key_pair
  role_name                  = var.ram_role == "" ? null : var.ram_role
  system_disk_category       = "cloud_essd"
  system_disk_size           = 40
  tags                       = var.tags

  data_disks {
    name                 = "${var.name}-cache"
    category             = "cloud_essd"
    performance_level    = var.disk_performance_level
    size                 = var.cache_disk_gib
    encrypted            = true
    delete_with_instance = true
  }

  user_data = base64encode(templatefile("${path.module}/user-data.yaml.tftpl", {
    config       = base64encode(local.config)
    unit         = filebase64("${path.module}/../systemd/roadstead.service")
    setup        = filebase64("${path.module}/setup.sh")
    state_device = local.state_device
    url          = var.binary_url
    sha256       = var.binary_sha256
  }))

  lifecycle {
    # A newer image of Debian is no reason to replace a mirror that runs.
    ignore_changes = [image_id]
  }
}

resource "alicloud_ecs_disk_attachment" "state" {
  disk_id     = alicloud_ecs_disk.state.id
  instance_id = alicloud_instance.mirror.id
}

resource "alicloud_pvtz_zone" "mirror" {
  zone_name = var.dns_name
  remark    = "roadstead"
}

resource "alicloud_pvtz_zone_attachment" "mirror" {
  zone_id = alicloud_pvtz_zone.mirror.id
  vpc_ids = concat([var.vpc_id], var.more_vpc_ids)
}

resource "alicloud_pvtz_zone_record" "mirror" {
  zone_id = alicloud_pvtz_zone.mirror.id
  rr      = "@"
  type    = "A"
  value   = alicloud_instance.mirror.primary_ip_address
  ttl     = 60
}
