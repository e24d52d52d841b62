//! Where a few fields lie in this kernel's structures, read from its BTF: what the kernel half needs
//! to find the cgroup behind a socket and to see whether a mapped socket's queue is empty.

use anyhow::{Context, bail};
use btf_rs::{Btf, BtfType, Member, Struct, Type};

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Byte offsets; see [`proxy_common::abi::Settings`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KernelLayout {
    pub(super) sock_cgroup: u32,
    pub(super) cgroup_kn: u32,
    pub(super) kn_id: u32,
    pub(super) sock_user_data: u32,
    pub(super) psock_ingress: u32,
    pub(super) sock_err: u32,
    pub(super) sock_socket: u32,
    pub(super) socket_file: u32,
    pub(super) file_flags: u32,
}

impl KernelLayout {
    /// Reads the running kernel's layout. About 50 ms: the whole of the kernel's type information
    /// is parsed once.
    pub(super) fn read() -> anyhow::Result<Self> {
        let btf = Btf::from_file(VMLINUX)
            .with_context(|| format!("{VMLINUX}: this kernel has no BTF (CONFIG_DEBUG_INFO_BTF)"))?;
        let at = |structure, field| offset(&btf, structure, field);
        Ok(Self {
            sock_cgroup: at("sock", "sk_cgrp_data")? + at("sock_cgroup_data", "cgroup")?,
            cgroup_kn: at("cgroup", "kn")?,
            kn_id: at("kernfs_node", "id")?,
            sock_user_data: at("sock", "sk_user_data")?,
            psock_ingress: at("sk_psock", "ingress_msg")?,
            sock_err: at("sock", "sk_err")?,
            sock_socket: at("sock", "sk_socket")?,
            socket_file: at("socket", "file")?,
            file_flags: at("file", "f_flags")?,
        })
    }
}

/// Bytes from the start of `structure` to `field`, anonymous members searched.
fn offset(btf: &Btf, structure: &str, field: &str) -> anyhow::Result<u32> {
    for found in btf.resolve_types_by_name(structure)? {
        if let Type::Struct(found) = found
            && let Some(bits) = bits_to(btf, &found, field)?
        {
            return Ok(bits / 8);
        }
    }
    bail!("{VMLINUX}: no field {field} in struct {structure}")
}

fn bits_to(btf: &Btf, structure: &Struct, field: &str) -> anyhow::Result<Option<u32>> {
    for member in &structure.members {
        if name_of(btf, member)? == field {
            return Ok(Some(member.bit_offset()));
        }
        if name_of(btf, member)?.is_empty()
            && let Type::Struct(inner) | Type::Union(inner) = btf.resolve_chained_type(member)?
            && let Some(bits) = bits_to(btf, &inner, field)?
        {
            return Ok(Some(member.bit_offset() + bits));
        }
    }
    Ok(None)
}

fn name_of(btf: &Btf, member: &Member) -> anyhow::Result<String> {
    match member.get_name_offset() {
        Some(0) | None => Ok(String::new()),
        Some(_) => Ok(btf.resolve_name(member)?),
    }
}
