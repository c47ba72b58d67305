//! The version of everything that outlives one daemon: map layouts and events.

/// Goes up with every change of a type in [`crate::maps`] or [`crate::event`].
///
/// It is the first field of the pinned `config` map; a daemon that finds
/// another number there refuses to start rather than guess.
pub const ABI: u32 = if cfg!(feature = "next-layout") { 10 } else { 9 };

/// Asserts at compile time that a shared type has exactly this many bytes.
///
/// A wrong size means that the layout changed: raise [`ABI`].
#[macro_export]
macro_rules! assert_layout {
    // Of a type that there is for each family, with its sizes.
    ($type:ident<_>, $v4:expr, $v6:expr) => {
        const _: () = assert!(
            core::mem::size_of::<$type<$crate::addr::Addr4>>() == $v4
                && core::mem::size_of::<$type<$crate::addr::Addr6>>() == $v6,
            concat!("the layout of ", stringify!($type), " changed: raise ABI")
        );
        // SAFETY: as below; there are no other families.
        #[cfg(feature = "user")]
        unsafe impl<A: $crate::addr::OfFamily> aya::Pod for $type<A> {}
    };
    ($type:ty, $size:expr) => {
        const _: () = assert!(
            core::mem::size_of::<$type>() == $size,
            concat!("the layout of ", stringify!($type), " changed: raise ABI")
        );
        // SAFETY: the type is `repr(C)`, made of integers and byte arrays only,
        // and its size is the sum of its fields' (no padding), as asserted here.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $type {}
    };
}
