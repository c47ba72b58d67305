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
        (self.end() - self.start()) as u32
    }

    // Both as 64 bits each time they are asked for: what the compiler sees to be 32
    // bits wide it keeps on the stack as such, which is no packet pointer then.

    #[inline(always)]
    fn start(&self) -> usize {
        opaque(self.ctx.data())
    }

    #[inline(always)]
    fn end(&self) -> usize {
        opaque(self.ctx.data_end())
    }
}

impl Read for Frame<'_> {
    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let start = self.start() + offset;
        if opaque(start + N) > self.end() {
            return None;
        }
        // SAFETY: checked to lie within the frame; alignment 1.
        Some(unsafe { (start as *const [u8; N]).read_unaligned() })
    }
}
