//! Access to a packet: the only place with pointers into it.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        __sk_buff, BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_CSUM_LEVEL_DEC, BPF_F_ADJ_ROOM_ENCAP_L2_ETH,
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
        BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, BPF_F_MARK_MANGLED_0,
        BPF_F_PSEUDO_HDR, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::{
        bpf_csum_diff, bpf_csum_level, bpf_get_hash_recalc, bpf_ktime_get_coarse_ns,
        bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer,
        bpf_skb_adjust_room, bpf_skb_change_head, bpf_skb_change_proto, bpf_skb_change_tail,
        bpf_skb_change_type, bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use netbpf_common::{
    drop::DropReason,
    packet::{Read, eth},
    time,
};

/// `PACKET_HOST` and `PACKET_OTHERHOST` of `linux/if_packet.h`.
pub const PACKET_HOST: u32 = 0;
pub const PACKET_OTHERHOST: u32 = 3;

/// `BPF_F_IPV6` of [`bpf_l4_csum_replace`] (6.16 and stable kernels): leaves
/// `skb->csum` alone, as IPv6 has no header checksum that makes up for the
/// changed address.
const BPF_F_IPV6: u64 = 1 << 7;

/// Flags of [`bpf_skb_adjust_room`] (6.3): the packet becomes one of this family.
const BPF_F_ADJ_ROOM_DECAP_L3_IPV4: u32 = 1 << 7;
const BPF_F_ADJ_ROOM_DECAP_L3_IPV6: u32 = 1 << 8;

/// A packet at a TC hook.
#[derive(Clone, Copy)]
pub struct Skb {
    skb: *mut __sk_buff,
}

/// What a change of the packet fails with.
const HELPER: DropReason = DropReason::Helper;

/// Hides a value from the optimiser, which otherwise turns bounds checks into
/// forms that the verifier does not understand.
#[inline(always)]
pub fn opaque(mut value: usize) -> usize {
    // SAFETY: the assembly is empty; it only claims to change the register. (Not
    // even a comment may stand in it: it would get line information of its own,
    // which the kernel then refuses.)
    unsafe { core::arch::asm!("", inout("r0") value) };
    value
}

impl Skb {
    #[inline(always)]
    pub fn new(ctx: &TcContext) -> Self {
        Skb {
            skb: ctx.as_ptr().cast(),
        }
    }

    #[inline(always)]
    pub fn from_raw(skb: *mut __sk_buff) -> Self {
        Skb { skb }
    }

    #[inline(always)]
    pub fn raw(&self) -> *mut __sk_buff {
        self.skb
    }

    /// Makes sure that `len` bytes, or all there are, can be read directly.
    #[inline(always)]
    pub fn pull(&self, len: u32) {
        // SAFETY: `skb` is the context of the program.
        unsafe {
            let linear = (*self.skb).data_end.wrapping_sub((*self.skb).data);
            let wanted = if (*self.skb).len < len {
                (*self.skb).len
            } else {
                len
            };
            if linear < wanted {
                bpf_skb_pull_data(self.skb, wanted);
            }
        }
    }

    /// Pointer to `N` bytes at `offset`, checked against the end of the packet.
    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<*mut [u8; N]> {
        // SAFETY: reading the context; nothing is dereferenced here.
        let (data, end) = unsafe { ((*self.skb).data as usize, (*self.skb).data_end as usize) };
        let start = data + offset;
        if opaque(start + N) > end {
            return None;
        }
        Some(start as *mut [u8; N])
    }

    /// Overwrites bytes. For bytes that no checksum of the packet covers, or
    /// whose change the caller makes up for.
    #[inline(always)]
    pub fn write<const N: usize>(&self, offset: usize, bytes: [u8; N]) -> Result<(), DropReason> {
        let at = self.at::<N>(offset).ok_or(HELPER)?;
        // SAFETY: checked to lie within the packet; alignment 1.
        unsafe { at.write_unaligned(bytes) };
        Ok(())
    }

    /// Overwrites bytes through the helper, which also reaches beyond the part
    /// that can be read directly.
    #[inline(always)]
    pub fn store<const N: usize>(&self, offset: usize, bytes: &[u8; N]) -> Result<(), DropReason> {
        // SAFETY: the helper checks offset and length against the packet.
        let ret = unsafe {
            bpf_skb_store_bytes(
                self.skb.cast(),
                offset as u32,
                bytes.as_ptr().cast(),
                N as u32,
                0,
            )
        };
        if ret == 0 { Ok(()) } else { Err(HELPER) }
    }

    /// The same without a call where they can be written directly.
    #[inline(always)]
    pub fn put<const N: usize>(&self, offset: usize, bytes: &[u8; N]) -> Result<(), DropReason> {
        match self.at::<N>(offset) {
            Some(at) => {
                // SAFETY: checked to lie within the packet; alignment 1.
                unsafe { at.write_unaligned(*bytes) };
                Ok(())
            }
            None => self.store(offset, bytes),
        }
    }

    /// Overwrites bytes that nothing but `skb->csum` covers, and puts that right:
    /// the IPv6 hop limit (of IPv4 the header's own checksum makes up for it).
    #[inline(always)]
    pub fn store_covered<const N: usize>(
        &self,
        offset: usize,
        bytes: &[u8; N],
    ) -> Result<(), DropReason> {
        const BPF_F_RECOMPUTE_CSUM: u64 = 1;
        // SAFETY: the helper checks offset and length against the packet.
        let ret = unsafe {
            bpf_skb_store_bytes(
                self.skb.cast(),
                offset as u32,
                bytes.as_ptr().cast(),
                N as u32,
                BPF_F_RECOMPUTE_CSUM,
            )
        };
        if ret == 0 { Ok(()) } else { Err(HELPER) }
    }

    /// Copies `len` (1…`N`, a power of two) bytes from `offset` into `buffer`.
    #[inline(always)]
    pub fn load<const N: usize>(
        &self,
        offset: u32,
        buffer: &mut [u8; N],
        len: u32,
    ) -> Result<(), DropReason> {
        const { assert!(N.is_power_of_two()) };
        if len == 0 || len as usize > N {
            return Err(HELPER);
        }
        // The same once more by arithmetic, which every verifier follows (before
        // 6.8 a comparison with 0 taught it nothing).
        let len = (opaque(len as usize - 1) & (N - 1)) + 1;
        // SAFETY: `len` is at most the buffer's size.
        let ret = unsafe {
            bpf_skb_load_bytes(
                self.skb.cast(),
                offset,
                buffer.as_mut_ptr().cast(),
                len as u32,
            )
        };
        if ret == 0 { Ok(()) } else { Err(HELPER) }
    }

    /// Updates the transport checksum at `offset` for `from` → `to` in the
    /// pseudo header. `ipv6`: see [`BPF_F_IPV6`].
    #[inline(always)]
    pub fn pseudo_checksum(
        &self,
        offset: usize,
        diff: u32,
        udp: bool,
        ipv6: bool,
    ) -> Result<(), DropReason> {
        let mut flags = u64::from(BPF_F_PSEUDO_HDR);
        if udp {
            flags |= u64::from(BPF_F_MARK_MANGLED_0);
        }
        let (skb, offset, diff) = (self.skb, offset as u32, u64::from(diff));
        // SAFETY: the helper checks the offset.
        let ret = unsafe {
            if ipv6 {
                match bpf_l4_csum_replace(skb, offset, 0, diff, flags | BPF_F_IPV6) {
                    0 => 0,
                    // Kernels that do not know the flag.
                    _ => bpf_l4_csum_replace(skb, offset, 0, diff, flags),
                }
            } else {
                bpf_l4_csum_replace(skb, offset, 0, diff, flags)
            }
        };
        if ret == 0 { Ok(()) } else { Err(HELPER) }
    }

    /// Updates the checksum at `offset` for a difference of what it covers, as
    /// [`sum_diff`] gives it.
    #[inline(always)]
    pub fn diff_checksum(&self, offset: usize, diff: u32) -> Result<(), DropReason> {
        // SAFETY: the helper checks the offset.
        let ret = unsafe { bpf_l4_csum_replace(self.skb, offset as u32, 0, diff.into(), 0) };
        if ret == 0 { Ok(()) } else { Err(HELPER) }
    }

    /// Updates the checksum at `offset` for a 16-bit field (network byte order)
    /// of the transport header.
    #[inline(always)]
    pub fn field_checksum(
        &self,
        offset: usize,
        from: u16,
        to: u16,
        udp: bool,
    ) -> Result<(), DropReason> {
        let flags = 2 | if udp {
            u64::from(BPF_F_MARK_MANGLED_0)
        } else {
            0
        };
        // SAFETY: the helper checks the offset.
        let ret = unsafe {
            bpf_l4_csum_replace(
                self.skb,
                offset as u32,
                u64::from(from.to_be()),
                u64::from(to.to_be()),
                flags,
            )
        };
        if ret == 0 { Ok(()) } else { Err(HELPER) }
    }

    /// Cuts or extends the packet to `len` bytes. A GSO packet ends being one.
    #[inline(always)]
    pub fn change_tail(&self, len: u32) -> Result<(), DropReason> {
        // SAFETY: no packet pointer is kept over the call.
        if unsafe { bpf_skb_change_tail(self.skb, len, 0) } == 0 {
            Ok(())
        } else {
            Err(HELPER)
        }
    }

    /// Makes `len` bytes of room in front of the network header.
    #[inline(always)]
    pub fn make_room(&self, len: i32) -> Result<(), DropReason> {
        // SAFETY: as above.
        let ret = unsafe { bpf_skb_adjust_room(self.skb, len, BPF_ADJ_ROOM_MAC, 0) };
        if ret == 0 { Ok(()) } else { Err(HELPER) }
    }

    /// Makes `len` bytes of room in front of the network header for headers of a VXLAN
    /// tunnel, the Ethernet header of the packet inside among them. What the packet says
    /// of its own headers and of its segments goes for those inside from then on.
    #[inline(always)]
    pub fn enter_tunnel(&self, len: i32, over_ipv6: bool) -> Result<(), DropReason> {
        let network = if over_ipv6 {
            BPF_F_ADJ_ROOM_ENCAP_L3_IPV6
        } else {
            BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
        };
        let inside = (eth::LEN as u64) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT;
        let flags = BPF_F_ADJ_ROOM_FIXED_GSO
            | BPF_F_ADJ_ROOM_NO_CSUM_RESET
            | BPF_F_ADJ_ROOM_ENCAP_L4_UDP
            | BPF_F_ADJ_ROOM_ENCAP_L2_ETH
            | network;
        // SAFETY: as above.
        let ret = unsafe {
            bpf_skb_adjust_room(self.skb, len, BPF_ADJ_ROOM_MAC, u64::from(flags) | inside)
        };
        if ret == 0 { Ok(()) } else { Err(HELPER) }
    }

    /// Takes `len` bytes of a tunnel's headers off, between the link header and the network
    /// header of the packet inside.
    #[inline(always)]
    pub fn leave_tunnel(&self, len: i32, from_ipv6: bool, to_ipv6: bool) -> Result<(), DropReason> {
        let mut len = len;
        let mut flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET;
        if from_ipv6 != to_ipv6 {
            flags |= if to_ipv6 {
                BPF_F_ADJ_ROOM_DECAP_L3_IPV6
            } else {
                BPF_F_ADJ_ROOM_DECAP_L3_IPV4
            };
        }
        // SAFETY: as above.
        let mut ret =
            unsafe { bpf_skb_adjust_room(self.skb, -len, BPF_ADJ_ROOM_MAC, flags.into()) };
        if ret != 0 && from_ipv6 != to_ipv6 {
            // Before 6.3 nothing but this makes the packet another family's. It changes
            // the outer header's length, too, which is to go anyway.
            let (ethertype, more) = if to_ipv6 {
                (eth::TYPE_IPV6, 20)
            } else {
                (eth::TYPE_IPV4, -20)
            };
            // SAFETY: as above.
            ret = unsafe { bpf_skb_change_proto(self.skb, ethertype.to_be(), 0) };
            if ret == 0 {
                len += more;
                let flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET;
                // SAFETY: as above.
                ret =
                    unsafe { bpf_skb_adjust_room(self.skb, -len, BPF_ADJ_ROOM_MAC, flags.into()) };
            }
        }
        if ret != 0 {
            return Err(HELPER);
        }
        // What a device has said of the outer checksum goes with it. It fails where none
        // has said anything.
        // SAFETY: as above.
        unsafe { bpf_csum_level(self.skb, BPF_CSUM_LEVEL_DEC.into()) };
        Ok(())
    }

    /// A hash of the packet's tuple, the same for all packets of a connection.
    #[inline(always)]
    pub fn hash(&self) -> u32 {
        // SAFETY: it takes nothing but the context.
        unsafe { bpf_get_hash_recalc(self.skb) }
    }

    /// Puts room for an Ethernet header in front of a packet without one.
    #[inline(always)]
    pub fn push_ethernet(&self) -> Result<(), DropReason> {
        // SAFETY: as above.
        if unsafe { bpf_skb_change_head(self.skb, 14, 0) } == 0 {
            Ok(())
        } else {
            Err(HELPER)
        }
    }

    /// The packet is for this host, whatever its destination MAC was.
    #[inline(always)]
    pub fn for_host(&self) {
        // SAFETY: as above. It only fails for types that mean nothing here.
        unsafe { bpf_skb_change_type(self.skb, PACKET_HOST) };
    }

    /// Hands the packet to the other end of a veth; the code to return.
    #[inline(always)]
    pub fn redirect_peer(&self, ifindex: u32) -> i32 {
        // SAFETY: takes numbers only.
        unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
    }

    /// Sends the packet out of a device as it is; the code to return.
    #[inline(always)]
    pub fn redirect(&self, ifindex: u32) -> i32 {
        // SAFETY: takes numbers only.
        unsafe { bpf_redirect(ifindex, 0) as i32 }
    }

    /// Sends the packet out of a device to a neighbour, which the kernel
    /// resolves, keeping the packet meanwhile. `None`: the neighbour that the
    /// kernel's own route to the destination says.
    #[inline(always)]
    pub fn redirect_neigh(
        &self,
        ifindex: u32,
        next_hop: Option<&mut aya_ebpf::bindings::bpf_redir_neigh>,
    ) -> i32 {
        let (params, len) = match next_hop {
            Some(params) => (
                core::ptr::from_mut(params),
                size_of::<aya_ebpf::bindings::bpf_redir_neigh>() as i32,
            ),
            None => (core::ptr::null_mut(), 0),
        };
        // SAFETY: `params` is null with length 0, or a whole structure.
        unsafe { bpf_redirect_neigh(ifindex, params, len, 0) as i32 }
    }

    #[inline(always)]
    pub fn len(&self) -> u32 {
        // SAFETY: reading the context.
        unsafe { (*self.skb).len }
    }

    /// The device whose hook runs.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: reading the context.
        unsafe { (*self.skb).ifindex }
    }

    /// The device that the packet came by; 0 for one made on this host.
    #[inline(always)]
    pub fn ingress_ifindex(&self) -> u32 {
        // SAFETY: reading the context.
        unsafe { (*self.skb).ingress_ifindex }
    }

    #[inline(always)]
    pub fn pkt_type(&self) -> u32 {
        // SAFETY: reading the context.
        unsafe { (*self.skb).pkt_type }
    }

    #[inline(always)]
    pub fn has_vlan_tag(&self) -> bool {
        // SAFETY: reading the context.
        unsafe { (*self.skb).vlan_present != 0 }
    }

    /// The frame belongs to a VLAN: one that is only tagged with a priority
    /// (VLAN 0) does not.
    #[inline(always)]
    pub fn is_of_vlan(&self) -> bool {
        // SAFETY: reading the context.
        unsafe { (*self.skb).vlan_present != 0 && (*self.skb).vlan_tci & 0xfff != 0 }
    }

    /// `skb->protocol` in the machine's byte order.
    #[inline(always)]
    pub fn protocol(&self) -> u16 {
        // SAFETY: reading the context.
        u16::from_be(unsafe { (*self.skb).protocol } as u16)
    }

    /// Packets on the wire that this one stands for.
    #[inline(always)]
    pub fn segments(&self) -> u64 {
        // SAFETY: reading the context.
        let segments = unsafe { (*self.skb).gso_segs };
        if segments == 0 {
            1
        } else {
            u64::from(segments)
        }
    }

    /// Payload of each packet that this one stands for; 0 when it is just one.
    #[inline(always)]
    pub fn gso_size(&self) -> u32 {
        // SAFETY: reading the context.
        unsafe { (*self.skb).gso_size }
    }

    #[inline(always)]
    pub fn is_gso(&self) -> bool {
        self.gso_size() != 0
    }

    /// The context, for helpers that want it untyped.
    #[inline(always)]
    pub fn as_ptr(&self) -> *mut c_void {
        self.skb.cast()
    }
}

impl Read for Skb {
    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let at = self.at::<N>(offset)?;
        // SAFETY: checked to lie within the packet; alignment 1.
        Some(unsafe { at.read_unaligned() })
    }
}

/// One's complement sum of `N` bytes (a multiple of 4), added to `seed`.
#[inline(always)]
pub fn sum<const N: usize>(bytes: &[u8; N], seed: u32) -> u32 {
    // SAFETY: the helper reads `N` bytes; the pointer is valid for them.
    unsafe {
        bpf_csum_diff(
            core::ptr::null_mut(),
            0,
            bytes.as_ptr().cast_mut().cast(),
            N as u32,
            seed,
        ) as u32
    }
}

/// Difference that replacing `from` by `to` (words in memory order) makes to a checksum, as
/// `bpf_csum_diff` gives it, without a call: each packet needs it.
#[inline(always)]
pub fn sum_diff<const WORDS: usize>(from: &[u32; WORDS], to: &[u32; WORDS]) -> u32 {
    let mut sum = 0;
    for (from, to) in from.iter().zip(to) {
        sum += u64::from(!from) + u64::from(*to);
    }
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    (sum as u32).wrapping_add((sum >> 32) as u32)
}

/// `CLOCK_MONOTONIC` of the last timer tick.
#[inline(always)]
pub fn now() -> time::Ticks {
    // SAFETY: takes and touches nothing.
    time::ticks(unsafe { bpf_ktime_get_coarse_ns() })
}
