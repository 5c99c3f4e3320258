output "url" {
  description = "The mirror, for the configuration of clients."
  value       = "http://${var.dns_name}:5000"
}

output "address" {
  description = "Its address in the VPC."
  value       = alicloud_instance.mirror.primary_ip_address
}

output "instance_id" {
  description = "The instance."
  value       = alicloud_instance.mirror.id
}

output "hosts_toml" {
  description = "For /etc/containerd/certs.d/_default/hosts.toml on each node."
  value       = <<-TOML
    [host."http://${var.dns_name}:5000"]
    capabilities = ["pull", "resolve"]
  TOML
}
