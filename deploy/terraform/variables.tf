variable "name" {
  description = "Name of the instance, its disks and its security group."
  type        = string
  default     = "roadstead"
}

variable "vpc_id" {
  description = "The VPC of the nodes that pull."
  type        = string
}

variable "vswitch_id" {
  description = "A vSwitch in it, for the mirror. Its zone must have the instance type and the disk category."
  type        = string
}

variable "instance_type" {
  description = "Two cores and 8 GiB serve some hundred nodes; what counts is the instance's network."
  type        = string
  default     = "ecs.g7.large"
}

variable "cache_disk_gib" {
  description = "Size of the disk for the cache. It may be lost at any time."
  type        = number
  default     = 200

  validation {
    condition     = var.cache_disk_gib >= 20
    error_message = "The smallest ESSD has 20 GiB."
  }
}

variable "state_disk_gib" {
  description = "Size of the disk for imported names, pins, users and tokens. It outlives the instance."
  type        = number
  default     = 20
}

variable "disk_performance_level" {
  description = "Of the cache's ESSD."
  type        = string
  default     = "PL1"
}

variable "binary_url" {
  description = "Where the instance gets roadstead: a static binary, or a Debian package (a URL that ends in .deb), such as an object in OSS."
  type        = string
}

variable "binary_sha256" {
  description = "SHA-256 of that file, in hexadecimal."
  type        = string

  validation {
    condition     = can(regex("^[0-9a-f]{64}$", var.binary_sha256))
    error_message = "64 hexadecimal digits are expected."
  }
}

variable "dns_name" {
  description = "Name of the mirror for the nodes; a PrivateZone of this name is made."
  type        = string
  default     = "roadstead.internal"
}

variable "more_vpc_ids" {
  description = "Further VPCs in which the name resolves. Their routes to the mirror are not made here."
  type        = list(string)
  default     = []
}

variable "client_cidrs" {
  description = "Networks that may pull."
  type        = list(string)

  validation {
    condition     = alltrue([for cidr in var.client_cidrs : can(cidrhost(cidr, 0)) && cidr != "0.0.0.0/0"])
    error_message = "Networks such as 10.0.0.0/8 are expected, and not the whole Internet."
  }
}

variable "monitoring_cidrs" {
  description = "Networks of Prometheus. Without any, the admin listener answers to the instance itself alone."
  type        = list(string)
  default     = []
}

variable "internet_mbps" {
  description = "Bandwidth of a public address for pulling from registries; 0 where the VPC has a NAT gateway. Nothing is let in by it."
  type        = number
  default     = 0
}

variable "ram_role" {
  description = "A RAM role of the instance, for logins at Alibaba Cloud ACR without a key; empty for none."
  type        = string
  default     = ""
}

variable "key_pair" {
  description = "Key pair for SSH; empty for none."
  type        = string
  default     = ""
}

variable "config" {
  description = "Further TOML for /etc/roadstead/config.toml: upstreams, tags, access. [server], [state] and [cache] are written already."
  type        = string
  default     = ""
}

variable "tags" {
  description = "Tags of everything that is made."
  type        = map(string)
  default     = {}
}
