//! What cannot be done is refused through command line and API alike: with the
//! stable code, a message that names the object and the value, and no trace.
//!
//! ```text
//!   web, app ── front, back ── host ──── client
//! ```

mod endpoints;
mod frame;
mod fuzz;
mod networks;
mod ports;
mod requests;
mod thrown;
