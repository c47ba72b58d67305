//! Access to a frame at an XDP hook: before the kernel has made a packet of it.

use aya_ebpf::programs::XdpContext;
use netbpf_common::packet::Read;

use crate::ctx::opaque;

/// A frame as the driver has received it.
pub struct Frame<'a> {
    ctx: &'a XdpContext,
}

impl<'a> Frame<'a> {
    #[inline(always)]
    pub fn new(ctx: &'a XdpContext) -> Self {
        Frame { ctx }
    }

    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        self.ctx.ingress_ifindex() as u32
    }

    /// Bytes at hand: all, unless the driver splits large frames.
    #[inline(always)]
    pub fn len(&self) -> u32 {
        (self.ctx.data_end() - self.ctx.data()) as u32
    }
}

impl Read for Frame<'_> {
    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let start = self.ctx.data() + offset;
        if opaque(start + N) > self.ctx.data_end() {
            return None;
        }
        // SAFETY: checked to lie within the frame; alignment 1.
        Some(unsafe { (start as *const [u8; N]).read_unaligned() })
    }
}
